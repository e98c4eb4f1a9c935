# The core without Python: bq_core (formats, encoders, GGUF parser, thread pool) and one object library per
# instruction set, each compiled with its own flags.
file(GLOB BQ_CORE_SOURCES CONFIGURE_DEPENDS
  ${PROJECT_SOURCE_DIR}/csrc/assemble/*.cpp
  ${PROJECT_SOURCE_DIR}/csrc/formats/*.cpp
  ${PROJECT_SOURCE_DIR}/csrc/formats/codebooks/*.cpp
  ${PROJECT_SOURCE_DIR}/csrc/decode/*.cpp
  ${PROJECT_SOURCE_DIR}/csrc/encode/*.cpp
  ${PROJECT_SOURCE_DIR}/csrc/gguf/*.cpp
  ${PROJECT_SOURCE_DIR}/csrc/matmul/*.cpp
  ${PROJECT_SOURCE_DIR}/csrc/runtime/*.cpp
  ${PROJECT_SOURCE_DIR}/csrc/transformer/*.cpp)
add_library(bq_core STATIC ${BQ_CORE_SOURCES} ${PROJECT_SOURCE_DIR}/csrc/targets/dispatch.cpp)
target_link_libraries(bq_core PUBLIC bq_flags Threads::Threads)

include(CheckCXXCompilerFlag)

# bq_target(<name> <source> <flags>...): an object library of csrc/targets/<source>*.cpp. Nothing but these is
# compiled with flags of an instruction set.
set(BQ_TARGETS "" CACHE INTERNAL "the per-instruction-set object libraries")
function(bq_target name source)
  file(GLOB sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/csrc/targets/${source}.cpp
                                      ${PROJECT_SOURCE_DIR}/csrc/targets/${source}_*.cpp)
  add_library(bq_${name} OBJECT ${sources})
  list(FILTER sources INCLUDE REGEX "_encode.cpp$|baseline.cpp$")
  set_source_files_properties(${sources} PROPERTIES COMPILE_OPTIONS "${BQ_ENCODER_FLAGS}")
  target_link_libraries(bq_${name} PRIVATE bq_kernel_flags)
  target_compile_options(bq_${name} PRIVATE ${ARGN})
  target_sources(bq_core PRIVATE $<TARGET_OBJECTS:bq_${name}>)
  set(BQ_TARGETS ${BQ_TARGETS} bq_${name} CACHE INTERNAL "the per-instruction-set object libraries")
endfunction()

string(TOLOWER "${CMAKE_SYSTEM_PROCESSOR}" BQ_PROCESSOR)
if(CMAKE_OSX_ARCHITECTURES)
  string(TOLOWER "${CMAKE_OSX_ARCHITECTURES}" BQ_PROCESSOR)
endif()
# What this CPU has beyond AVX2, where Linux tells; elsewhere nothing is left out.
if(EXISTS /proc/cpuinfo)
  file(STRINGS /proc/cpuinfo BQ_CPU_FLAGS REGEX "^flags" LIMIT_COUNT 1)
  foreach(set avx_vnni avx512_vnni)
    if(BQ_CPU_FLAGS MATCHES " ${set}( |$)")
      set(BQ_CPU_HAS_${set} ON)
    elseif(BQ_RUNNABLE_ONLY)
      set(BQ_WITHOUT_${set} ON)
    endif()
  endforeach()
endif()
bq_target(baseline baseline)
if(BQ_PROCESSOR MATCHES "^(x86_64|amd64)$" AND CMAKE_SIZEOF_VOID_P EQUAL 8)
  if(MSVC AND NOT CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
    bq_target(avx2 avx2 /arch:AVX2)
    bq_target(avx_vnni avxvnni /arch:AVX2)
    target_compile_definitions(bq_core PUBLIC BQ_HAVE_AVX_VNNI)
    bq_target(avx512 avx512 /arch:AVX512)
    bq_target(vbmi vbmi /arch:AVX512)
  else()
    bq_target(avx2 avx2 -mavx2 -mfma -mf16c)
    check_cxx_compiler_flag(-mavxvnni BQ_COMPILES_AVX_VNNI)  # gcc 11, clang 12
    if(BQ_COMPILES_AVX_VNNI AND NOT BQ_WITHOUT_avx_vnni)
      bq_target(avx_vnni avxvnni -mavx2 -mfma -mf16c -mavxvnni)
      target_compile_definitions(bq_core PUBLIC BQ_HAVE_AVX_VNNI)
    endif()
    if(NOT BQ_WITHOUT_avx512_vnni)
      set(avx512_flags -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni)
      bq_target(avx512 avx512 ${avx512_flags})
      bq_target(avx512_bf16 avx512bf16 ${avx512_flags} -mavx512bf16)
      bq_target(vbmi vbmi ${avx512_flags} -mavx512vbmi)
      target_compile_definitions(bq_core PUBLIC BQ_HAVE_AVX512_BF16)
      if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
        # Some of gcc's own AVX-512 intrinsics start from an undefined register on purpose.
        foreach(target bq_avx512 bq_avx512_bf16 bq_vbmi)
          target_compile_options(${target} PRIVATE -Wno-maybe-uninitialized -Wno-uninitialized)
        endforeach()
      endif()
    endif()
  endif()
  target_compile_definitions(bq_core PUBLIC BQ_HAVE_AVX2)
  if(TARGET bq_avx512)
    target_compile_definitions(bq_core PUBLIC BQ_HAVE_AVX512)
  endif()
elseif(BQ_PROCESSOR MATCHES "^(aarch64|arm64)$")
  bq_target(neon neon)
  if(MSVC AND NOT CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
    bq_target(neon_dotprod neondotprod /arch:armv8.2)
  else()
    bq_target(neon_dotprod neondotprod -march=armv8.2-a+dotprod+fp16)
    bq_target(i8mm i8mm -march=armv8.2-a+dotprod+fp16+i8mm)
    target_compile_definitions(bq_i8mm PRIVATE BQ_NEON_DOTPROD)
    target_compile_definitions(bq_core PUBLIC BQ_HAVE_I8MM)
  endif()
  target_compile_definitions(bq_neon_dotprod PRIVATE BQ_NEON_DOTPROD)
  target_compile_definitions(bq_core PUBLIC BQ_HAVE_NEON)
endif()
