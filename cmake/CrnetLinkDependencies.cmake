# What crnet links, each as one target. Serves the build and, installed beside crnetConfig.cmake,
# the programs that link crnet. Nothing is vendored or downloaded.

find_package(LibTorch 2.11 REQUIRED)
find_package(spdlog CONFIG REQUIRED)
find_package(yaml-cpp CONFIG REQUIRED)
find_package(ZLIB REQUIRED)
find_package(Threads REQUIRED)

# crnet_find_library(<target> HEADER <h> LIBRARIES <l>…): for packages without a CMake package.
function(crnet_find_library target)
  if(TARGET ${target})
    return()
  endif()
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "HEADER" "LIBRARIES")
  find_path(${target}_INCLUDE_DIR ${arg_HEADER})
  set(found)
  foreach(library ${arg_LIBRARIES})
    find_library(${target}_${library} ${library})
    list(APPEND found ${${target}_${library}})
    mark_as_advanced(${target}_${library})
    if(NOT ${target}_${library} OR NOT ${target}_INCLUDE_DIR)
      message(FATAL_ERROR "expected lib${library} with ${arg_HEADER}, found none; "
                          "run scripts/setup.sh, or name its prefix in CMAKE_PREFIX_PATH")
    endif()
  endforeach()
  mark_as_advanced(${target}_INCLUDE_DIR)
  # Imported, so that crnet's installed targets may refer to it by name.
  add_library(${target} INTERFACE IMPORTED)
  set_target_properties(${target} PROPERTIES
    INTERFACE_INCLUDE_DIRECTORIES "${${target}_INCLUDE_DIR}"
    INTERFACE_LINK_LIBRARIES "${found}")
endfunction()

crnet_find_library(crnet_sentencepiece HEADER sentencepiece_processor.h
                   LIBRARIES sentencepiece_train sentencepiece)
crnet_find_library(crnet_xxhash HEADER xxhash.h LIBRARIES xxhash)
crnet_find_library(crnet_zstd HEADER zstd.h LIBRARIES zstd)
