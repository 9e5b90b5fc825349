# GoogleTest and GoogleMock of a staged prefix: the static libraries.
include(CMakeFindDependencyMacro)
find_dependency(Threads)
get_filename_component(_prefix "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)
foreach(_library gtest gtest_main gmock gmock_main)
  if(NOT TARGET GTest::${_library})
    add_library(GTest::${_library} STATIC IMPORTED)
    set_target_properties(GTest::${_library} PROPERTIES
      IMPORTED_LOCATION "${_prefix}/lib/lib${_library}.a"
      INTERFACE_INCLUDE_DIRECTORIES "${_prefix}/include")
  endif()
endforeach()
set_target_properties(GTest::gtest PROPERTIES INTERFACE_LINK_LIBRARIES Threads::Threads)
set_target_properties(GTest::gmock PROPERTIES INTERFACE_LINK_LIBRARIES GTest::gtest)
set_target_properties(GTest::gtest_main PROPERTIES INTERFACE_LINK_LIBRARIES GTest::gtest)
set_target_properties(GTest::gmock_main PROPERTIES INTERFACE_LINK_LIBRARIES GTest::gmock)
unset(_prefix)
unset(_library)
