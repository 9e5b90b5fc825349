# `cmake --install <build> --prefix P`: the library with its headers as the package crnet, and the
# programs with a run path to the LibTorch that it was built with.

include(CMakePackageConfigHelpers)
set(CRNET_PACKAGE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/crnet)

install(TARGETS crnet EXPORT crnetTargets
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT development
        LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT runtime)
install(TARGETS ${CRNET_PROGRAMS} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT runtime)
file(RELATIVE_PATH _bin_to_lib ${CMAKE_INSTALL_FULL_BINDIR} ${CMAKE_INSTALL_FULL_LIBDIR})
set_target_properties(crnet ${CRNET_PROGRAMS} PROPERTIES INSTALL_RPATH_USE_LINK_PATH ON)
set_target_properties(${CRNET_PROGRAMS} PROPERTIES INSTALL_RPATH "$ORIGIN/${_bin_to_lib}")

install(DIRECTORY include/crnet DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT development
        FILES_MATCHING PATTERN "*.h")

configure_package_config_file(cmake/crnetConfig.cmake.in ${CMAKE_BINARY_DIR}/crnetConfig.cmake
                              INSTALL_DESTINATION ${CRNET_PACKAGE_DIR}
                              NO_CHECK_REQUIRED_COMPONENTS_MACRO)
write_basic_package_version_file(${CMAKE_BINARY_DIR}/crnetConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/crnetConfig.cmake ${CMAKE_BINARY_DIR}/crnetConfigVersion.cmake
              cmake/CrnetLinkDependencies.cmake cmake/FindLibTorch.cmake
        DESTINATION ${CRNET_PACKAGE_DIR} COMPONENT development)
install(EXPORT crnetTargets NAMESPACE crnet:: DESTINATION ${CRNET_PACKAGE_DIR}
        COMPONENT development)
