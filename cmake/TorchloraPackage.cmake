# A Debian package and a .tar.gz of what is installed (target `package`).

# torchlora_debian(OUT PACKAGE…): the packages as a dependency, in the version
# with which this was built or newer.
function(torchlora_debian out)
  set(dependencies)
  foreach(package IN LISTS ARGN)
    execute_process(
      COMMAND dpkg-query --show --showformat=\${Version} ${package}
      OUTPUT_VARIABLE version ERROR_QUIET)
    if(version MATCHES "^([0-9]+:)?[^-]+")
      string(APPEND package " (>= ${CMAKE_MATCH_0})")
    endif()
    list(APPEND dependencies ${package})
  endforeach()
  list(JOIN dependencies ", " dependencies)
  set(${out} ${dependencies} PARENT_SCOPE)
endfunction()

set(CPACK_GENERATOR TGZ DEB)
set(CPACK_PACKAGE_NAME torchlora)
set(CPACK_PACKAGE_CONTACT "The torchlora authors")
set(CPACK_PACKAGE_VENDOR "The torchlora authors")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY ${PROJECT_DESCRIPTION})
set(CPACK_RESOURCE_FILE_LICENSE ${PROJECT_SOURCE_DIR}/LICENSE)
set(CPACK_PACKAGE_DIRECTORY ${PROJECT_BINARY_DIR}/packages)
set(CPACK_VERBATIM_VARIABLES ON)

if(BUILD_SHARED_LIBS)
  set(kind shared)
  torchlora_debian(CPACK_DEBIAN_PACKAGE_DEPENDS libc6 libgcc-s1 libstdc++6 libpcre2-8-0)
else()
  set(kind static)
  torchlora_debian(
    CPACK_DEBIAN_PACKAGE_DEPENDS libc6 libgcc-s1 libstdc++6 libpcre2-dev pkg-config)
endif()
set(CPACK_DEBIAN_PACKAGE_DESCRIPTION
    "Headers, ${kind} libraries, the program torchlora, and the packages for CMake
and pkg-config.
.
Needs LibTorch ${Torch_VERSION}, which no dependency of this package brings: it is
looked for where it was when this package was built,
${TORCH_INSTALL_PREFIX},
and by CMake in Torch_DIR.")
set(CPACK_DEBIAN_PACKAGE_SECTION libdevel)
set(CPACK_DEBIAN_PACKAGE_RECOMMENDS cmake)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_COMPRESSION_TYPE gzip)
include(CPack)
