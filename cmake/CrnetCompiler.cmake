# Warnings, sanitizers and the compiler cache, as the interface target crnet_options.

# Errors by default only with the compiler that continuous integration has: another one's warnings,
# and those that sanitizers bring about, are news, and no reason not to build.
set(_tested OFF)
if(PROJECT_IS_TOP_LEVEL AND NOT CRNET_SANITIZE AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND
   CMAKE_CXX_COMPILER_VERSION MATCHES "^12\\.")
  set(_tested ON)
endif()
option(CRNET_WARNINGS_AS_ERRORS "Treat compiler warnings as errors" ${_tested})

add_library(crnet_options INTERFACE)
target_compile_options(crnet_options INTERFACE -Wall -Wextra -Wno-unused-parameter)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # A false alarm of g++ 12 at `"text" + std::string` (GCC bug 105651).
  target_compile_options(crnet_options INTERFACE -Wno-restrict)
endif()
if(CRNET_WARNINGS_AS_ERRORS)
  # A newer LibTorch may have deprecated what the oldest one needs.
  target_compile_options(crnet_options INTERFACE -Werror -Wno-error=deprecated-declarations)
endif()
if(CRNET_SANITIZE)
  set(_sanitize -fsanitize=${CRNET_SANITIZE} -fno-omit-frame-pointer -fno-sanitize=vptr)
  target_compile_options(crnet_options INTERFACE ${_sanitize} -g1)
  target_compile_definitions(crnet_options INTERFACE CRNET_SANITIZE)
  target_link_options(crnet_options INTERFACE ${_sanitize})
endif()

find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM AND PROJECT_IS_TOP_LEVEL AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # Precompiled headers want the sloppiness; base directory and no-hash-dir let a second clone hit.
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env
      CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime
      CCACHE_BASEDIR=${PROJECT_SOURCE_DIR} CCACHE_NOHASHDIR=1 CCACHE_PCH_EXTSUM=1
      ${CCACHE_PROGRAM})
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${CMAKE_CXX_COMPILER_LAUNCHER})
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-fpch-preprocess>)
endif()
