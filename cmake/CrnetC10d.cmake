# c10d's backends for a layer. LibTorch has them in its libraries, but their headers want those of
# Gloo, and of NCCL and the CUDA runtime, which it does not bring.

function(crnet_c10d layer)
  find_path(CRNET_GLOO_INCLUDE_DIR gloo/algorithm.h)
  mark_as_advanced(CRNET_GLOO_INCLUDE_DIR)
  if(NOT CRNET_GLOO_INCLUDE_DIR)
    message(FATAL_ERROR "expected gloo/algorithm.h, found none; run scripts/setup.sh, or name its "
                        "prefix in CMAKE_PREFIX_PATH")
  endif()
  target_include_directories(crnet_${layer} SYSTEM PRIVATE ${CRNET_GLOO_INCLUDE_DIR})
  if(NOT LibTorch_torch_cuda_LIBRARY)
    return()
  endif()
  # Beside LibTorch's Python package lie those of NCCL and of the CUDA runtime.
  set(_wheels "${LibTorch_ROOT_DIR}/../nvidia")
  find_path(CRNET_NCCL_INCLUDE_DIR nccl.h HINTS "${_wheels}/nccl/include")
  file(GLOB _cuda_includes "${_wheels}/cu*/include" "${_wheels}/cuda_runtime/include")
  find_path(CRNET_CUDA_INCLUDE_DIR cuda_runtime_api.h
            HINTS /usr/local/cuda/include ${_cuda_includes} ENV CUDA_HOME
            PATH_SUFFIXES include)
  mark_as_advanced(CRNET_NCCL_INCLUDE_DIR CRNET_CUDA_INCLUDE_DIR)
  if(CRNET_NCCL_INCLUDE_DIR AND CRNET_CUDA_INCLUDE_DIR)
    target_include_directories(crnet_${layer} SYSTEM PRIVATE ${CRNET_NCCL_INCLUDE_DIR}
                                                             ${CRNET_CUDA_INCLUDE_DIR})
    target_compile_definitions(crnet_${layer} PRIVATE CRNET_NCCL)
  else()
    message(STATUS "No nccl.h or cuda_runtime_api.h: dist.backend will be gloo alone")
  endif()
endfunction()
