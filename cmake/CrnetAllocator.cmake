# The memory allocator of crnet's programs: jemalloc where it is installed, else that of the C
# library. The library crnet leaves the choice to whoever links it. A training step frees large
# tensors while it makes small ones that stay, which leaves holes in glibc's heap that nothing fits
# into; jemalloc keeps sizes apart.

set(CRNET_JEMALLOC AUTO CACHE STRING "Programs with jemalloc: AUTO (where it is found), ON or OFF")
set_property(CACHE CRNET_JEMALLOC PROPERTY STRINGS AUTO ON OFF)

# Programs link to this.
add_library(crnet_allocator INTERFACE)
if(CRNET_SANITIZE AND CRNET_JEMALLOC STREQUAL ON)
  message(FATAL_ERROR "CRNET_JEMALLOC=ON: expected no sanitizers, which replace the allocator "
                      "themselves, got CRNET_SANITIZE=${CRNET_SANITIZE}")
elseif(CRNET_JEMALLOC AND NOT CRNET_SANITIZE)
  find_library(CRNET_JEMALLOC_LIBRARY NAMES jemalloc
               DOC "jemalloc, built without a prefix for its functions")
  mark_as_advanced(CRNET_JEMALLOC_LIBRARY)
  if(CRNET_JEMALLOC_LIBRARY)
    message(STATUS "Programs with jemalloc: ${CRNET_JEMALLOC_LIBRARY}")
    target_sources(crnet_allocator INTERFACE ${PROJECT_SOURCE_DIR}/src/allocator/jemalloc.cpp)
    # Whatever calls it is in shared libraries, so the linker sees no need.
    target_link_libraries(crnet_allocator INTERFACE
                          -Wl,--push-state,--no-as-needed ${CRNET_JEMALLOC_LIBRARY} -Wl,--pop-state)
  elseif(NOT CRNET_JEMALLOC STREQUAL AUTO)
    message(FATAL_ERROR "CRNET_JEMALLOC=ON: expected libjemalloc (on Debian libjemalloc-dev), "
                        "found none; install it, or name its folder in CMAKE_PREFIX_PATH")
  else()
    message(STATUS "Programs with the C library's allocator: no libjemalloc was found")
  endif()
endif()
