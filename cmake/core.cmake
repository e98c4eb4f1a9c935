# The core without Python: bq_core (formats, encoders, GGUF parser, thread pool) and one object library per
# instruction set, each compiled with its own flags.
file(GLOB BQ_CORE_SOURCES CONFIGURE_DEPENDS
  ${PROJECT_SOURCE_DIR}/csrc/formats/*.cpp
  ${PROJECT_SOURCE_DIR}/csrc/encode/*.cpp
  ${PROJECT_SOURCE_DIR}/csrc/gguf/*.cpp
  ${PROJECT_SOURCE_DIR}/csrc/runtime/*.cpp
  ${PROJECT_SOURCE_DIR}/csrc/transformer/*.cpp)
add_library(bq_core STATIC ${BQ_CORE_SOURCES})
target_link_libraries(bq_core PUBLIC bq_flags Threads::Threads)

# (the targets: csrc/targets/<isa>.cpp, each with its own flags, and dispatch.cpp)
