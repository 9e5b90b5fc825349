# Everything that the build needs: what crnet links, and the header-only libraries that only its
# own sources see.

include(CrnetLinkDependencies)
find_package(nlohmann_json CONFIG REQUIRED)
find_package(cxxopts CONFIG REQUIRED)
