# Install rules, the package that find_package(torchlora) reads, and the check
# that each public header compiles alone (target
# all_verify_interface_header_sets).
include(CMakePackageConfigHelpers)

# torchlora_install(COMPONENT HEADERS PATTERN…): a library with its public
# headers, given below include/torchlora.
function(torchlora_install component)
  cmake_parse_arguments(ARG "" "" "HEADERS" ${ARGN})
  set(name torchlora_${component})
  if(NOT TARGET ${name})
    return()
  endif()
  list(TRANSFORM ARG_HEADERS PREPEND ${PROJECT_SOURCE_DIR}/include/torchlora/)
  file(GLOB headers CONFIGURE_DEPENDS ${ARG_HEADERS})
  get_target_property(type ${name} TYPE)
  set(scope PUBLIC)
  if(type STREQUAL "INTERFACE_LIBRARY")
    set(scope INTERFACE)
  endif()
  target_sources(
    ${name} ${scope} FILE_SET HEADERS BASE_DIRS ${PROJECT_SOURCE_DIR}/include FILES ${headers})
  set_target_properties(${name} PROPERTIES VERIFY_INTERFACE_HEADER_SETS ON)
  install(
    TARGETS ${name}
    EXPORT torchloraTargets
    FILE_SET HEADERS)
endfunction()

torchlora_install(core HEADERS error.h export.h hotswap.h intruders.h model.h preprocess.h
                            status.h init/*.h io/*.h lora/*.h nn/*.h optim/*.h)
torchlora_install(gemma4 HEADERS models/gemma4/*.h tokenizer/*.h)
torchlora_install(train HEADERS train/*.h)
torchlora_install(all HEADERS torchlora.h)
if(TARGET torchlora_program)
  install(TARGETS torchlora_program)
endif()

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/torchlora)
install(
  EXPORT torchloraTargets
  NAMESPACE torchlora::
  DESTINATION ${package_dir})
configure_package_config_file(
  ${CMAKE_CURRENT_LIST_DIR}/torchloraConfig.cmake.in
  ${PROJECT_BINARY_DIR}/torchloraConfig.cmake INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(
  ${PROJECT_BINARY_DIR}/torchloraConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/torchloraConfig.cmake
              ${PROJECT_BINARY_DIR}/torchloraConfigVersion.cmake DESTINATION ${package_dir})
