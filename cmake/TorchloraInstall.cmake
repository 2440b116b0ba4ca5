# Install rules, the package that find_package(torchlora) reads, torchlora.pc,
# and the check that each public header compiles alone (target
# torchlora_headers).
include(CMakePackageConfigHelpers)
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/torchlora)

# torchlora_install(COMPONENT [HEADERS PATTERN…]): a library with its public
# headers, given below include/torchlora, and its targets file.
function(torchlora_install component)
  cmake_parse_arguments(ARG "" "" "HEADERS" ${ARGN})
  set(name torchlora_${component})
  set(headers)
  if(ARG_HEADERS)
    list(TRANSFORM ARG_HEADERS PREPEND ${PROJECT_SOURCE_DIR}/include/torchlora/)
    file(GLOB headers CONFIGURE_DEPENDS ${ARG_HEADERS})
  endif()
  get_target_property(type ${name} TYPE)
  set(scope PUBLIC)
  if(type STREQUAL "INTERFACE_LIBRARY")
    set(scope INTERFACE)
  endif()
  target_sources(
    ${name} ${scope} FILE_SET HEADERS BASE_DIRS ${PROJECT_SOURCE_DIR}/include FILES ${headers})
  set_property(GLOBAL APPEND PROPERTY TORCHLORA_HEADERS ${headers})
  install(
    TARGETS ${name}
    EXPORT torchlora-${component}
    FILE_SET HEADERS)
  install(
    EXPORT torchlora-${component}
    FILE torchlora-${component}Targets.cmake
    NAMESPACE torchlora::
    DESTINATION ${package_dir})
endfunction()

torchlora_install(
  core
  HEADERS
    torchlora.h error.h export.h model.h types.h adapter_files/*.h config/*.h detail/*.h init/*.h
    init/detail/*.h io/*.h lora/*.h lora/layers/*.h lora/variants/*.h model/*.h nn/*.h optim/*.h
    tools/*.h)
torchlora_install(tokenizer HEADERS tokenizer.h tokenizer/*.h)
torchlora_install(gemma4 HEADERS gemma4.h models/gemma4/*.h)
torchlora_install(train HEADERS train.h train/*.h)
torchlora_install(all)

# LibTorch's headers are nine tenths of the time of each, so those of types.h are
# precompiled; scripts/check_sources.py sees a header that forgets to include them.
set(header_sources)
get_property(headers GLOBAL PROPERTY TORCHLORA_HEADERS)
foreach(header IN LISTS headers)
  cmake_path(RELATIVE_PATH header BASE_DIRECTORY ${PROJECT_SOURCE_DIR}/include)
  file(CONFIGURE OUTPUT headers/${header}.cpp CONTENT "#include <${header}>\n")
  list(APPEND header_sources ${CMAKE_CURRENT_BINARY_DIR}/headers/${header}.cpp)
endforeach()
add_library(torchlora_headers OBJECT EXCLUDE_FROM_ALL ${header_sources})
set_target_properties(torchlora_headers PROPERTIES UNITY_BUILD OFF)
target_link_libraries(torchlora_headers PRIVATE torchlora::torchlora)
target_precompile_headers(torchlora_headers PRIVATE <torchlora/types.h>)
torchlora_target(torchlora_headers)
target_compile_options(torchlora_headers PRIVATE -O0)
if(TARGET torchlora_program)
  install(TARGETS torchlora_program)
endif()
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})

string(REGEX MATCH "^[0-9]+[.][0-9]+" torch_minor ${Torch_VERSION})
configure_package_config_file(
  ${CMAKE_CURRENT_LIST_DIR}/torchloraConfig.cmake.in
  ${PROJECT_BINARY_DIR}/torchloraConfig.cmake INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(
  ${PROJECT_BINARY_DIR}/torchloraConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/torchloraConfig.cmake
              ${PROJECT_BINARY_DIR}/torchloraConfigVersion.cmake DESTINATION ${package_dir})

# Relative to where it is, unless the folders are given as absolute ones.
if(IS_ABSOLUTE ${CMAKE_INSTALL_LIBDIR})
  set(pc_prefix ${CMAKE_INSTALL_PREFIX})
else()
  file(RELATIVE_PATH pc_prefix /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
  string(REGEX REPLACE "/$" "" pc_prefix "\${pcfiledir}/${pc_prefix}")
endif()
foreach(kind IN ITEMS LIB INCLUDE)
  cmake_path(APPEND pc_${kind} "\${prefix}" ${CMAKE_INSTALL_${kind}DIR})
endforeach()
string(REPLACE " " "\\ " pc_torch ${TORCH_INSTALL_PREFIX})
set(pc_static)
if(NOT BUILD_SHARED_LIBS)
  set(pc_static "\nRequires.private: libpcre2-8\nLibs.private: -l${CMAKE_DL_LIBS}")
endif()
configure_file(${CMAKE_CURRENT_LIST_DIR}/torchlora.pc.in ${PROJECT_BINARY_DIR}/torchlora.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/torchlora.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
