# Flags of every target. No multiply-add contraction anywhere by default: the bytes of the encoders and the bits of
# the decoders must not depend on the compiler. Kernels that want FMA ask for it with an explicit operation.
add_library(bq_flags INTERFACE)
target_include_directories(bq_flags INTERFACE ${PROJECT_SOURCE_DIR}/csrc)
if(MSVC)
  target_compile_options(bq_flags INTERFACE /utf-8 /fp:precise /bigobj /W4)
else()
  target_compile_options(bq_flags INTERFACE -ffp-contract=off -Wall -Wextra -Wno-psabi)
endif()
if(BQ_WERROR)
  target_compile_options(bq_flags INTERFACE $<IF:$<CXX_COMPILER_ID:MSVC>,/WX,-Werror>)
endif()
if(BQ_SANITIZE)
  target_compile_options(bq_flags INTERFACE -fsanitize=address,undefined -fno-sanitize-recover=all
                                            -fno-omit-frame-pointer)
  target_link_options(bq_flags INTERFACE -fsanitize=address,undefined)
endif()

# What the kernels' files get besides: with sanitizers, optimised and with forced inlining, they would take minutes
# and gigabytes to compile.
add_library(bq_kernel_flags INTERFACE)
target_link_libraries(bq_kernel_flags INTERFACE bq_flags)
if(BQ_SANITIZE OR NOT BQ_FORCED_INLINING)
  target_compile_definitions(bq_kernel_flags INTERFACE BQ_NO_FORCED_INLINING)
endif()
if(BQ_SANITIZE)
  target_compile_options(bq_kernel_flags INTERFACE -O0 -g1)
endif()
# But encoders, whose tests take ten times as long without, are optimised where that is soon done.
set(BQ_ENCODER_FLAGS "")
if(BQ_SANITIZE AND CMAKE_CXX_COMPILER_ID MATCHES "Clang")
  set(BQ_ENCODER_FLAGS -O1)
endif()
