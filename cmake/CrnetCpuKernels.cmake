# The kernels of src/ops/cpu, once per instruction set; src/ops/cpu/dispatch.cpp picks at run time.

function(crnet_cpu_kernels layer)
  target_sources(crnet_${layer} PRIVATE ${PROJECT_SOURCE_DIR}/src/ops/cpu/dispatch.cpp)
  # By itself: the precompiled header is without OpenMP.
  set_source_files_properties(${PROJECT_SOURCE_DIR}/src/ops/parallel.cpp PROPERTIES
                              COMPILE_OPTIONS -fopenmp SKIP_PRECOMPILE_HEADERS ON)
  # Sums of products have one order, whichever tile makes them.
  set_source_files_properties(${PROJECT_SOURCE_DIR}/src/ops/cpu/product_kernels.cpp PROPERTIES
                              COMPILE_OPTIONS -fno-associative-math)
  set(variants baseline)
  set(flags_baseline "")
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    list(APPEND variants avx2 avx512 avx512_bf16)
    set(flags_avx2 -mavx2 -mfma)
    set(flags_avx512 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mprefer-vector-width=512)
    set(flags_avx512_bf16 ${flags_avx512} -mavx512bf16)
  endif()
  foreach(variant ${variants})
    set(target crnet_cpu_${variant})
    add_library(${target} OBJECT ${PROJECT_SOURCE_DIR}/src/ops/cpu/kernels.cpp
                                 ${PROJECT_SOURCE_DIR}/src/ops/cpu/attention_kernels.cpp
                                 ${PROJECT_SOURCE_DIR}/src/ops/cpu/product_kernels.cpp)
    target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR}/src)
    target_compile_definitions(${target} PRIVATE CRNET_CPU_VARIANT=${variant})
    # -fassociative-math lets sums become vector sums; NaN and infinity keep their meaning.
    target_compile_options(${target} PRIVATE ${flags_${variant}} -O3 -fno-math-errno
      -fno-trapping-math -fassociative-math -fno-signed-zeros)
    target_link_libraries(${target} PRIVATE crnet_options)
    set_property(TARGET crnet_${layer} APPEND PROPERTY CRNET_CLOSURE ${target})
  endforeach()
endfunction()
