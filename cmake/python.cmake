find_package(Python REQUIRED COMPONENTS Interpreter Development.Module)
find_package(pybind11 3 CONFIG QUIET)
if(NOT pybind11_FOUND)
  execute_process(COMMAND ${Python_EXECUTABLE} -m pybind11 --cmakedir
                  OUTPUT_VARIABLE pybind11_DIR OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
  find_package(pybind11 3 CONFIG REQUIRED)
endif()
file(GLOB BQ_PYTHON_SOURCES CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/csrc/python/*.cpp)
pybind11_add_module(_core NO_EXTRAS ${BQ_PYTHON_SOURCES})
target_link_libraries(_core PRIVATE bq_core)
target_compile_definitions(_core PRIVATE BQ_VERSION="${PROJECT_VERSION}")
install(TARGETS _core LIBRARY DESTINATION blockquant)
if(NOT SKBUILD)
  # In a source tree: put the module beside the Python files, so that PYTHONPATH=python works.
  add_custom_command(TARGET _core POST_BUILD COMMAND ${CMAKE_COMMAND} -E copy $<TARGET_FILE:_core>
                     ${PROJECT_SOURCE_DIR}/python/blockquant/)
endif()
