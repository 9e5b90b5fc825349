# A layer is an object library src/<layer>/*.cpp with its tests tests/<layer>/*_test.cpp.

# One precompiled header serves every target that sees LibTorch.
file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/pch/torch_pch.cpp CONTENT "")
add_library(crnet_torch_pch OBJECT ${CMAKE_BINARY_DIR}/pch/torch_pch.cpp)
target_link_libraries(crnet_torch_pch PRIVATE LibTorch::CPU crnet_options)
target_precompile_headers(crnet_torch_pch PRIVATE <torch/torch.h>)
# What ccache takes for the header's contents: those differ from build to build, and are 700 MB.
file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/CMakeFiles/crnet_torch_pch.dir/cmake_pch.hxx.gch.sum
     CONTENT "${CMAKE_CXX_COMPILER_VERSION} ${LibTorch_VERSION} ${LibTorch_INCLUDE_DIR}")

function(crnet_use_torch_pch target)
  # The headers alone: what a program links follows from the layers in it.
  target_include_directories(${target} SYSTEM PRIVATE
    $<TARGET_PROPERTY:LibTorch::CPU,INTERFACE_INCLUDE_DIRECTORIES>)
  target_precompile_headers(${target} REUSE_FROM crnet_torch_pch)
  # An executable's -fPIE would make the compiler pass over the header, at ten times the cost.
  set_target_properties(${target} PROPERTIES POSITION_INDEPENDENT_CODE OFF)
  target_compile_options(${target} PRIVATE -fPIC -Werror=invalid-pch)
endfunction()

# crnet_layer(<name> [TORCH] [DEPENDS <layer>…] [LINK <target>…])
function(crnet_layer name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "TORCH" "" "DEPENDS;LINK")
  file(GLOB sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/${name}/*.cpp)
  set(target crnet_${name})
  set(closure ${target})
  set(links ${arg_LINK})
  foreach(layer ${arg_DEPENDS})
    get_target_property(below crnet_${layer} CRNET_CLOSURE)
    get_target_property(below_links crnet_${layer} CRNET_LINKS)
    list(APPEND closure ${below})
    list(APPEND links ${below_links})
  endforeach()
  list(REMOVE_DUPLICATES closure)
  list(REMOVE_DUPLICATES links)
  add_library(${target} OBJECT ${sources})
  target_include_directories(${target} PUBLIC ${PROJECT_SOURCE_DIR}/include PRIVATE
                                              ${PROJECT_SOURCE_DIR}/src)
  target_link_libraries(${target} PRIVATE crnet_options Threads::Threads ${links})
  if(arg_TORCH)
    crnet_use_torch_pch(${target})
    list(APPEND links LibTorch::LibTorch)
  endif()
  set_target_properties(${target} PROPERTIES CRNET_CLOSURE "${closure}" CRNET_LINKS "${links}")
endfunction()

# crnet_library(<name> TOP <layer>): the one library that users link, of a layer and all below it.
function(crnet_library name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "TOP" "")
  get_target_property(closure crnet_${arg_TOP} CRNET_CLOSURE)
  get_target_property(links crnet_${arg_TOP} CRNET_LINKS)
  list(TRANSFORM closure REPLACE "(.+)" "$<TARGET_OBJECTS:\\1>" OUTPUT_VARIABLE objects)
  # nlohmann_json is headers alone: whoever links crnet need not have it.
  list(REMOVE_ITEM links LibTorch::LibTorch nlohmann_json::nlohmann_json)
  add_library(${name} ${objects})
  add_library(crnet::${name} ALIAS ${name})
  target_include_directories(${name} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>
                                            $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  target_compile_features(${name} PUBLIC cxx_std_20)
  target_link_libraries(${name} PUBLIC LibTorch::LibTorch Threads::Threads
                                PRIVATE ${links})
  set_target_properties(${name} PROPERTIES VERSION ${PROJECT_VERSION} SOVERSION 0
                                           CRNET_PRIVATE_LINKS "${links}")
endfunction()
