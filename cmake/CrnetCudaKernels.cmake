# The kernels of src/ops/cuda for NVIDIA GPUs, where LibTorch has CUDA and there is an nvcc of the
# same major version. nvcc sees no header of LibTorch; what of it the kernels' callers need is in
# C++ sources.

set(CRNET_CUDA AUTO CACHE STRING "CUDA kernels: AUTO (where they can be compiled), ON or OFF")
set_property(CACHE CRNET_CUDA PROPERTY STRINGS AUTO ON OFF)
set(_architectures "75-real;80-real;90")
if(DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(_architectures "${CMAKE_CUDA_ARCHITECTURES}")
endif()
set(CRNET_CUDA_ARCHITECTURES "${_architectures}" CACHE STRING
    "GPUs to compile for, as CMAKE_CUDA_ARCHITECTURES; 90 without -real serves later ones as well")

# Sets `result` to why there can be no kernels, or to nothing.
function(crnet_missing_for_cuda result)
  set(${result} "" PARENT_SCOPE)
  if(NOT LibTorch_CUDA)
    set(${result} "a LibTorch with CUDA" PARENT_SCOPE)
  elseif(NOT TARGET LibTorch::CUDA)
    set(${result} "libc10_cuda, libcudart and libcublasLt beside LibTorch or in a toolkit"
        PARENT_SCOPE)
  elseif(NOT _nvcc)
    set(${result} "nvcc (name it in CUDACXX)" PARENT_SCOPE)
  elseif(NOT CRNET_CUBLAS_INCLUDE_DIR OR NOT CRNET_CUSOLVER_INCLUDE_DIR OR
         NOT CRNET_CUSPARSE_INCLUDE_DIR)
    set(${result} "cublasLt.h, cusolverDn.h and cusparse.h, which LibTorch's headers include"
        PARENT_SCOPE)
  elseif(LibTorch_CUDA_MAJOR)
    execute_process(COMMAND "${_nvcc}" --version OUTPUT_VARIABLE text ERROR_QUIET)
    if(NOT text MATCHES "release ${LibTorch_CUDA_MAJOR}\\.")
      set(${result} "nvcc ${LibTorch_CUDA_MAJOR}, as LibTorch's CUDA (${_nvcc} is not)"
          PARENT_SCOPE)
    endif()
  endif()
endfunction()

set(_kernels OFF)
set(_missing "CRNET_CUDA=ON")
if(CRNET_CUDA)
  # Not cached: the compiler that is settled on is CMAKE_CUDA_COMPILER.
  unset(_nvcc)
  find_program(_nvcc NAMES ${CMAKE_CUDA_COMPILER} $ENV{CUDACXX} nvcc NO_CACHE
               HINTS ENV CUDA_HOME ENV CUDA_PATH PATHS /usr/local/cuda PATH_SUFFIXES bin)
  if(NOT _nvcc STREQUAL "${CMAKE_CUDA_COMPILER}")  # gone, a bare name, or NOTFOUND earlier
    unset(CMAKE_CUDA_COMPILER CACHE)
  endif()
  get_filename_component(_toolkit "${_nvcc}" REALPATH)
  get_filename_component(_toolkit "${_toolkit}" DIRECTORY)
  file(GLOB _cuda_includes "${LibTorch_ROOT_DIR}/../nvidia/*/include")
  list(PREPEND _cuda_includes "${_toolkit}/../include")
  find_path(CRNET_CUBLAS_INCLUDE_DIR cublasLt.h HINTS ${_cuda_includes})
  find_path(CRNET_CUSOLVER_INCLUDE_DIR cusolverDn.h HINTS ${_cuda_includes})
  find_path(CRNET_CUSPARSE_INCLUDE_DIR cusparse.h HINTS ${_cuda_includes})
  mark_as_advanced(CRNET_CUBLAS_INCLUDE_DIR CRNET_CUSOLVER_INCLUDE_DIR CRNET_CUSPARSE_INCLUDE_DIR)
  crnet_missing_for_cuda(_missing)
  if(NOT _missing)
    # By environment, since check_language hands on no variable.
    set(ENV{CUDACXX} "${_nvcc}")
    if(CMAKE_CUDA_HOST_COMPILER)
      set(ENV{CUDAHOSTCXX} "${CMAKE_CUDA_HOST_COMPILER}")
    elseif(NOT DEFINED ENV{CUDAHOSTCXX})
      set(ENV{CUDAHOSTCXX} "${CMAKE_CXX_COMPILER}")
    endif()
    set(CMAKE_CUDA_ARCHITECTURES "${CRNET_CUDA_ARCHITECTURES}")
    # The runtime is LibTorch's shared one: a second, static one would keep state of its own.
    set(CMAKE_CUDA_RUNTIME_LIBRARY None)
    set(CMAKE_CUDA_STANDARD 17)  # CMake 3.25 does not know how to ask nvcc for 20
    set(CMAKE_CUDA_STANDARD_REQUIRED ON)
    include(CheckLanguage)
    check_language(CUDA)
    if(CMAKE_CUDA_COMPILER)
      enable_language(CUDA)
      set(_kernels ON)
    else()
      set(_missing "an nvcc that works (${_nvcc} does not)")
    endif()
  endif()
  if(_missing AND NOT CRNET_CUDA STREQUAL "AUTO")
    message(FATAL_ERROR "CRNET_CUDA=ON: expected ${_missing}, found none; CRNET_CUDA=OFF leaves "
                        "GPUs to LibTorch's operators")
  elseif(_missing AND LibTorch_CUDA)
    message(STATUS "No CUDA kernels: expected ${_missing}, found none")
  endif()
endif()
set(CRNET_CUDA_KERNELS ${_kernels} CACHE INTERNAL "Whether there are kernels")
set(CRNET_CUDA_MISSING "${_missing}" CACHE INTERNAL "Why there are none")

# Tells a target's sources of the kernels, and lets them see CUDA's headers.
function(crnet_see_cuda target)
  if(CRNET_CUDA_KERNELS)
    target_compile_definitions(${target} PRIVATE CRNET_CUDA)
    target_include_directories(${target} SYSTEM PRIVATE ${CRNET_CUBLAS_INCLUDE_DIR}
      ${CRNET_CUSOLVER_INCLUDE_DIR} ${CRNET_CUSPARSE_INCLUDE_DIR}
      ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
  endif()
endfunction()

function(crnet_cuda_kernels layer)
  if(NOT CRNET_CUDA_KERNELS)
    return()
  endif()
  file(GLOB kernels CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/${layer}/cuda/*.cu)
  file(GLOB callers CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/${layer}/cuda/*.cpp)
  set(target crnet_${layer}_cuda)
  add_library(${target} OBJECT ${kernels})
  target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR}/src
                                               ${PROJECT_SOURCE_DIR}/include)
  target_compile_options(${target} PRIVATE -Xcompiler=-Wall,-Wextra)
  if(CRNET_WARNINGS_AS_ERRORS AND CMAKE_CUDA_COMPILER_VERSION MATCHES "^13\\.0")  # as in CI
    target_compile_options(${target} PRIVATE -Werror=all-warnings)
  endif()
  target_sources(crnet_${layer} PRIVATE ${callers})
  crnet_see_cuda(crnet_${layer})
  set_property(TARGET crnet_${layer} APPEND PROPERTY CRNET_CLOSURE ${target})
  set_property(TARGET crnet_${layer} APPEND PROPERTY CRNET_LINKS LibTorch::CUDA)
endfunction()
