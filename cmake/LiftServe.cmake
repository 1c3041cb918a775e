# Shared compile settings and the one way to declare a layer's library, program or test.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()
find_program(LIFTSERVE_CCACHE ccache)
if(LIFTSERVE_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${LIFTSERVE_CCACHE})
endif()

add_library(lift_options INTERFACE)
# No silent fused multiply-add: results must not depend on what the compiler contracts.
target_compile_options(lift_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -ffp-contract=off>)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # GCC 12 warns of overlapping copies inside std::string's own operators (PR 105329, 105651).
  target_compile_options(lift_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wno-restrict>)
endif()
if(LIFTSERVE_WERROR)
  target_compile_options(lift_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Werror>)
endif()
target_include_directories(lift_options INTERFACE ${CMAKE_SOURCE_DIR})
if(LIFTSERVE_SANITIZE)
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${LIFTSERVE_SANITIZE}> $<$<COMPILE_LANGUAGE:CXX>:-fno-omit-frame-pointer>
                      $<$<COMPILE_LANGUAGE:CXX>:-fno-sanitize-recover=all>)
  add_link_options(-fsanitize=${LIFTSERVE_SANITIZE})
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # The sanitizers' own checks make GCC 12 see uninitialized values where there are none.
    add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-Wno-maybe-uninitialized>)
  endif()
endif()

# lift_vector_clones(a.cc ...): functions marked LIFT_VECTOR_CLONES in these files, whose loops are written in lanes for compilers to
# make vectors of, are compiled for AVX-512 and AVX2 too, and the loader picks. Equal to the bit, since nothing is contracted. Not
# with the sanitizers, which are not ready yet when the loader picks.
set(clones "")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64" AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND NOT LIFTSERVE_SANITIZE)
  set(clones "__attribute__((target_clones(\"avx512f\",\"avx2\",\"default\")))")
endif()
set(LIFTSERVE_VECTOR_CLONES "${clones}")
function(lift_vector_clones)
  set_source_files_properties(${ARGN} PROPERTIES COMPILE_DEFINITIONS "LIFT_VECTOR_CLONES=${LIFTSERVE_VECTOR_CLONES}")
endfunction()

# lift_library(NAME SOURCES a.cc b.cc [DEPS targets...])
function(lift_library name)
  cmake_parse_arguments(A "" "" "SOURCES;DEPS" ${ARGN})
  add_library(${name} STATIC ${A_SOURCES})
  target_link_libraries(${name} PUBLIC lift_options ${A_DEPS})
endfunction()

# lift_program(NAME SOURCES a.cc [DEPS targets...]); lands in build/<preset>/bin
function(lift_program name)
  cmake_parse_arguments(A "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${A_SOURCES})
  target_link_libraries(${name} PRIVATE lift_options ${A_DEPS})
endfunction()

# For code whose own speed does not matter: what is tested is in the libraries. A test compiles in two thirds of the time.
function(lift_compile_fast target)
  target_compile_options(${target} PRIVATE $<$<AND:$<CONFIG:Release>,$<COMPILE_LANGUAGE:CXX>>:-O1>)
endfunction()

# lift_test(NAME SOURCES a_test.cc [DEPS targets...] [LABELS l...]): one GoogleTest binary, one CTest entry.
function(lift_test name)
  cmake_parse_arguments(A "" "TIMEOUT" "SOURCES;DEPS;LABELS" ${ARGN})
  add_executable(${name} ${A_SOURCES})
  lift_compile_fast(${name})
  target_link_libraries(${name} PRIVATE lift_options ${A_DEPS} GTest::gtest GTest::gmock GTest::gtest_main)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  target_compile_definitions(${name} PRIVATE LIFT_TEST_DATA="${CMAKE_SOURCE_DIR}/tests/golden")
  add_test(NAME ${name} COMMAND ${name})
  if(NOT A_TIMEOUT)
    set(A_TIMEOUT 300)
  endif()
  set_tests_properties(${name} PROPERTIES LABELS "${A_LABELS}" TIMEOUT ${A_TIMEOUT})
endfunction()
