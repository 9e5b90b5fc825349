# Finds LibTorch, the C++ distribution of PyTorch, without enabling CUDA as a language.
#
# TorchConfig.cmake of a CUDA build insists on a complete CUDA toolkit and on a list of GPU
# architectures even where no device code is compiled. Only the headers and the shared libraries
# matter here, so they are found directly. Looks in CMAKE_PREFIX_PATH (as printed by
# `python3 -c 'import torch; print(torch.utils.cmake_prefix_path)'`, or the folder that a LibTorch
# archive unpacks to).
#
# Result: target LibTorch::LibTorch, and LibTorch::CPU, which leaves CUDA out; LibTorch_ROOT_DIR,
# LibTorch_VERSION, LibTorch_CUDA. For code that calls CUDA itself: target LibTorch::CUDA (its part
# in c10, and the very runtime and cuBLASLt that LibTorch loads), LibTorch_CUDA_MAJOR (where that
# can be told).

find_path(LibTorch_INCLUDE_DIR torch/csrc/api/include/torch/torch.h
          PATH_SUFFIXES include ../../include
          DOC "Folder that holds LibTorch's headers")
if(LibTorch_INCLUDE_DIR)
  get_filename_component(LibTorch_ROOT_DIR "${LibTorch_INCLUDE_DIR}/.." ABSOLUTE)
  foreach(header torch/headeronly/version.h torch/csrc/api/include/torch/version.h)
    if(EXISTS "${LibTorch_INCLUDE_DIR}/${header}" AND NOT LibTorch_VERSION)
      file(STRINGS "${LibTorch_INCLUDE_DIR}/${header}" _line REGEX "define TORCH_VERSION_M")
      string(REGEX REPLACE ".*MAJOR ([0-9]+).*MINOR ([0-9]+).*" "\\1.\\2" LibTorch_VERSION "${_line}")
    endif()
  endforeach()
endif()
foreach(library torch torch_cpu c10 torch_cuda c10_cuda)
  find_library(LibTorch_${library}_LIBRARY ${library}
               PATHS "${LibTorch_ROOT_DIR}/lib" NO_DEFAULT_PATH)
  mark_as_advanced(LibTorch_${library}_LIBRARY)
endforeach()

# What LibTorch's libraries load, as in "[libcudart.so.13]"; empty without readelf.
execute_process(COMMAND "${CMAKE_READELF}" -d "${LibTorch_torch_cpu_LIBRARY}"
                        "${LibTorch_torch_cuda_LIBRARY}"
                OUTPUT_VARIABLE _loaded ERROR_QUIET)

# Sets `result` to the file of these patterns that LibTorch loads, else to the one of the highest
# version, else to nothing.
function(libtorch_choose result)
  file(GLOB files ${ARGN})
  list(SORT files COMPARE NATURAL ORDER DESCENDING)
  foreach(file ${files})
    get_filename_component(name "${file}" NAME)
    string(FIND "${_loaded}" "[${name}]" position)
    if(NOT position EQUAL -1)
      list(PREPEND files "${file}")
    endif()
  endforeach()
  list(POP_FRONT files first)
  set(${result} "${first}" PARENT_SCOPE)
endfunction()

# LibTorch brings the OpenMP runtime that its threads are from. Another one beside it would have
# threads of its own, and those of both would wait for each other's cores.
libtorch_choose(LibTorch_OpenMP_LIBRARY "${LibTorch_ROOT_DIR}/lib/libgomp[-.]*so*"
                "${LibTorch_ROOT_DIR}/lib/libiomp5[-.]*so*"
                "${LibTorch_ROOT_DIR}/lib/libomp[-.]*so*")
if(NOT LibTorch_OpenMP_LIBRARY)
  find_package(OpenMP QUIET COMPONENTS CXX)
  set(LibTorch_OpenMP_LIBRARY ${OpenMP_CXX_LIBRARIES})
endif()

# CUDA's own libraries come with LibTorch (in an archive its own folder, of a Python package the
# neighbouring ones), or else from a toolkit.
unset(LibTorch_CUDA_MAJOR)
if(LibTorch_torch_cuda_LIBRARY)
  foreach(library cudart cublasLt)
    libtorch_choose(_beside "${LibTorch_ROOT_DIR}/lib/lib${library}[-.]*so*"
                    "${LibTorch_ROOT_DIR}/../nvidia/*/lib/lib${library}.so*")
    if(_beside AND NOT LibTorch_${library}_LIBRARY)
      set(LibTorch_${library}_LIBRARY "${_beside}" CACHE FILEPATH "CUDA library that LibTorch loads"
          FORCE)
    endif()
    find_library(LibTorch_${library}_LIBRARY ${library}
                 HINTS ENV CUDA_HOME ENV CUDA_PATH /usr/local/cuda PATH_SUFFIXES lib64)
    mark_as_advanced(LibTorch_${library}_LIBRARY)
  endforeach()
  get_filename_component(_runtime "${LibTorch_cudart_LIBRARY}" REALPATH)
  if("${_loaded} ${_runtime}" MATCHES "libcudart[^]/]*\\.so\\.([0-9]+)")
    set(LibTorch_CUDA_MAJOR ${CMAKE_MATCH_1})
  endif()
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(LibTorch
  REQUIRED_VARS LibTorch_torch_cpu_LIBRARY LibTorch_c10_LIBRARY LibTorch_INCLUDE_DIR
                LibTorch_OpenMP_LIBRARY
  VERSION_VAR LibTorch_VERSION
  REASON_FAILURE_MESSAGE "name its folder in CMAKE_PREFIX_PATH, as torch.utils.cmake_prefix_path has it")

if(LibTorch_FOUND AND NOT TARGET LibTorch::LibTorch)
  add_library(LibTorch::CPU INTERFACE IMPORTED)
  set_target_properties(LibTorch::CPU PROPERTIES
    INTERFACE_INCLUDE_DIRECTORIES
      "${LibTorch_INCLUDE_DIR};${LibTorch_INCLUDE_DIR}/torch/csrc/api/include"
    INTERFACE_LINK_LIBRARIES
      "${LibTorch_torch_cpu_LIBRARY};${LibTorch_c10_LIBRARY};${LibTorch_OpenMP_LIBRARY}")
  set(LibTorch_CUDA FALSE)
  set(_libraries LibTorch::CPU)
  if(LibTorch_torch_cuda_LIBRARY)
    set(LibTorch_CUDA TRUE)
    # Nothing refers to libtorch_cuda.so by symbol: it registers itself when it is loaded. One item,
    # since CMake may part several.
    list(PREPEND _libraries
         "-Wl,--push-state,--no-as-needed,${LibTorch_torch_cuda_LIBRARY},--pop-state")
  endif()
  add_library(LibTorch::LibTorch INTERFACE IMPORTED)
  set_target_properties(LibTorch::LibTorch PROPERTIES INTERFACE_LINK_LIBRARIES "${_libraries}")
endif()
if(LibTorch_FOUND AND LibTorch_c10_cuda_LIBRARY AND LibTorch_cudart_LIBRARY AND
   LibTorch_cublasLt_LIBRARY AND NOT TARGET LibTorch::CUDA)
  add_library(LibTorch::CUDA INTERFACE IMPORTED)
  set_target_properties(LibTorch::CUDA PROPERTIES INTERFACE_LINK_LIBRARIES
    "LibTorch::LibTorch;${LibTorch_c10_cuda_LIBRARY};${LibTorch_cudart_LIBRARY};${LibTorch_cublasLt_LIBRARY}")
endif()
mark_as_advanced(LibTorch_INCLUDE_DIR)
