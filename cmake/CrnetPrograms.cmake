# Programs of crnet. Where LibTorch has CUDA, `crnet` chooses between two: crnet-cpu, which does not
# load libtorch_cuda.so, and crnet-cuda.

# Whether programs can leave CUDA out: the linker takes from a static library what it needs.
set(CRNET_HAS_TWO_PROGRAMS OFF)
if(LibTorch_CUDA AND NOT BUILD_SHARED_LIBS)
  set(CRNET_HAS_TWO_PROGRAMS ON)
endif()

# For programs to link in place of crnet.
add_library(crnet_without_cuda INTERFACE)
if(CRNET_HAS_TWO_PROGRAMS)
  # nccl.cpp without CRNET_NCCL: the one in the library is with it.
  add_library(crnet_absent_cuda OBJECT ${PROJECT_SOURCE_DIR}/src/without_cuda/kernels.cpp
                                       ${PROJECT_SOURCE_DIR}/src/dist/nccl.cpp)
  target_include_directories(crnet_absent_cuda PRIVATE ${PROJECT_SOURCE_DIR}/include
                                                       ${PROJECT_SOURCE_DIR}/src)
  target_link_libraries(crnet_absent_cuda PRIVATE crnet_options)
  crnet_use_torch_pch(crnet_absent_cuda)
  crnet_see_cuda(crnet_absent_cuda)
  get_target_property(_links crnet CRNET_PRIVATE_LINKS)
  list(REMOVE_ITEM _links LibTorch::CUDA)
  target_sources(crnet_without_cuda INTERFACE $<TARGET_OBJECTS:crnet_absent_cuda>)
  target_include_directories(crnet_without_cuda INTERFACE ${PROJECT_SOURCE_DIR}/include)
  target_compile_features(crnet_without_cuda INTERFACE cxx_std_20)
  target_link_libraries(crnet_without_cuda INTERFACE $<TARGET_FILE:crnet> ${_links} LibTorch::CPU
                                                     Threads::Threads)
  add_dependencies(crnet_without_cuda crnet)
else()
  target_link_libraries(crnet_without_cuda INTERFACE crnet)
endif()

file(GLOB _sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/cli/*.cpp)
add_library(crnet_commands OBJECT ${_sources})
target_include_directories(crnet_commands PRIVATE ${PROJECT_SOURCE_DIR}/src)
target_link_libraries(crnet_commands PRIVATE crnet crnet_options cxxopts::cxxopts
                                             nlohmann_json::nlohmann_json)
crnet_use_torch_pch(crnet_commands)

# crnet_add_program(<target> NAME <file> LIBRARY <crnet or crnet_without_cuda>)
function(crnet_add_program target)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "NAME;LIBRARY" "")
  add_executable(${target} $<TARGET_OBJECTS:crnet_commands>)
  set_target_properties(${target} PROPERTIES OUTPUT_NAME ${arg_NAME} LINKER_LANGUAGE CXX)
  target_link_libraries(${target} PRIVATE ${arg_LIBRARY} crnet_options)
endfunction()

if(CRNET_HAS_TWO_PROGRAMS)
  crnet_add_program(crnet_cli_cpu NAME crnet-cpu LIBRARY crnet_without_cuda)
  crnet_add_program(crnet_cli_cuda NAME crnet-cuda LIBRARY crnet)
  add_executable(crnet_cli ${PROJECT_SOURCE_DIR}/src/launcher/main.cpp)
  set_target_properties(crnet_cli PROPERTIES OUTPUT_NAME crnet)
  target_link_libraries(crnet_cli PRIVATE crnet_options ${CMAKE_DL_LIBS})
  add_dependencies(crnet_cli crnet_cli_cpu crnet_cli_cuda)
  set(CRNET_PROGRAMS crnet_cli crnet_cli_cpu crnet_cli_cuda)
else()
  crnet_add_program(crnet_cli NAME crnet LIBRARY crnet)
  set(CRNET_PROGRAMS crnet_cli)
endif()
