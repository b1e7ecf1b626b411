# The one way to declare a library or program here.
#
#   swarm_library(NAME [SOURCES …] [DEPS …] [TESTS …])   headers stand beside the sources, included as "room/file.h"
#   swarm_test(NAME SOURCES … [DEPS …])                  an executable of tests, run by ctest under the label "unit"
#   swarm_program(NAME SOURCES … [DEPS …] [STATIC])      STATIC: fully static, for agents' containers; all of them: target "programs"
#   swarm_cool(NAME…)                                    not on the way of messages and tasks: optimised less, built in half the time
#
# TESTS become swarm_test(NAME_test).

find_package(Threads REQUIRED)
find_package(OpenSSL REQUIRED)
find_package(GTest REQUIRED)
include(GoogleTest)

add_library(swarm_options INTERFACE)
target_include_directories(swarm_options INTERFACE
  ${CMAKE_SOURCE_DIR}/src-common ${CMAKE_SOURCE_DIR}/operator ${CMAKE_SOURCE_DIR}/sidecar
  ${CMAKE_SOURCE_DIR}/agentctl ${CMAKE_SOURCE_DIR}/swarmctl)
target_compile_options(swarm_options INTERFACE -Wall -Wextra -Wpedantic -Wconversion -Wshadow)
target_compile_definitions(swarm_options INTERFACE SWARM_VERSION="${PROJECT_VERSION}"
  BOOST_ASIO_NO_DEPRECATED BOOST_BEAST_USE_STD_STRING_VIEW)
if(SWARM_WERROR)
  target_compile_options(swarm_options INTERFACE -Werror)
endif()
if(SWARM_SANITIZE)
  target_compile_options(swarm_options INTERFACE -fsanitize=${SWARM_SANITIZE} -fno-omit-frame-pointer)
  target_link_options(swarm_options INTERFACE -fsanitize=${SWARM_SANITIZE})
endif()

# GCC looks for garbage in its own memory again and again above 128 MB; below 1 GB (in kB) that only takes time.
target_compile_options(swarm_options INTERFACE $<$<AND:$<CXX_COMPILER_ID:GNU>,$<CONFIG:Release>>:--param=ggc-min-heapsize=1000000>)

function(swarm_cool)
  foreach(name ${ARGN})
    target_compile_options(${name} PRIVATE $<$<CONFIG:Release>:-O1>)
    set_target_properties(${name} PROPERTIES DISABLE_PRECOMPILE_HEADERS ON)  # theirs are read with -O0
  endforeach()
endfunction()

# GoogleTest's headers, read once for all tests. Only they: with more, loading takes what reading took. The preset
# release alone does it, so an #include that is missing shows in the others.
file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/empty.cc CONTENT "")
add_library(swarm_test_headers OBJECT ${CMAKE_BINARY_DIR}/empty.cc)
target_compile_options(swarm_test_headers PRIVATE $<$<CONFIG:Release>:-O0>)
target_link_libraries(swarm_test_headers PRIVATE swarm_options GTest::gmock)
target_precompile_headers(swarm_test_headers PRIVATE <gmock/gmock.h> <gtest/gtest.h>)

function(swarm_test name)
  cmake_parse_arguments(A "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${A_SOURCES})
  # What is tested is optimised as it ships; tests are compiled often and run once.
  target_compile_options(${name} PRIVATE $<$<CONFIG:Release>:-O0>)
  target_precompile_headers(${name} REUSE_FROM swarm_test_headers)
  target_link_libraries(${name} PRIVATE ${A_DEPS} GTest::gmock GTest::gtest_main Threads::Threads)
  gtest_discover_tests(${name} PROPERTIES LABELS unit TIMEOUT 60 DISCOVERY_MODE PRE_TEST)
endfunction()

function(swarm_library name)
  cmake_parse_arguments(A "" "" "SOURCES;DEPS;TESTS" ${ARGN})
  if(A_SOURCES)
    add_library(${name} STATIC ${A_SOURCES})
    target_link_libraries(${name} PUBLIC swarm_options ${A_DEPS})
  else()
    add_library(${name} INTERFACE)
    target_link_libraries(${name} INTERFACE swarm_options ${A_DEPS})
  endif()
  if(A_TESTS)
    swarm_test(${name}_test SOURCES ${A_TESTS} DEPS ${name})
  endif()
endfunction()

add_custom_target(programs)
function(swarm_program name)
  cmake_parse_arguments(A "STATIC" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${A_SOURCES})
  add_dependencies(programs ${name})
  target_link_libraries(${name} PRIVATE swarm_options ${A_DEPS} Threads::Threads)
  if(A_STATIC AND NOT SWARM_SANITIZE)
    target_link_options(${name} PRIVATE -static)
  endif()
endfunction()
