# Everything that the build needs: what crnet links, and the header-only libraries that only its
# own sources see.

include(CrnetLinkDependencies)
find_package(nlohmann_json CONFIG REQUIRED)
find_package(cxxopts CONFIG REQUIRED)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # A false alarm of g++ 12 where cxxopts assigns to a std::string.
  target_compile_options(cxxopts::cxxopts INTERFACE -Wno-stringop-overflow)
endif()
