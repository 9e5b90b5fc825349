# spdlog of a staged prefix: headers alone, with {fmt} as headers too. They lie apart from
# include/, because LibTorch brings its own version of {fmt}.
include(CMakeFindDependencyMacro)
find_dependency(Threads)
get_filename_component(_prefix "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)
if(NOT TARGET spdlog::spdlog)
  add_library(spdlog::spdlog INTERFACE IMPORTED)
  set_target_properties(spdlog::spdlog PROPERTIES
    INTERFACE_INCLUDE_DIRECTORIES "${_prefix}/include/crnet-spdlog"
    INTERFACE_COMPILE_DEFINITIONS "SPDLOG_FMT_EXTERNAL;FMT_HEADER_ONLY=1"
    INTERFACE_LINK_LIBRARIES Threads::Threads)
endif()
unset(_prefix)
