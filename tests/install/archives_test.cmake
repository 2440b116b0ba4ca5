# Makes the .tar.gz and, where there is dpkg-deb, the .deb, and looks into them.
include(${CMAKE_CURRENT_LIST_DIR}/common.cmake)
set(folder ${WORK_DIR}/archives)
file(REMOVE_RECURSE ${folder})
find_program(DPKG_DEB dpkg-deb)
foreach(generator IN ITEMS TGZ DEB)
  if(DPKG_DEB OR generator STREQUAL "TGZ")
    run(${CPACK} --config ${BUILD_DIR}/CPackConfig.cmake -G ${generator} -B ${folder})
  endif()
endforeach()

set(ending "a\n")
if(SHARED)
  set(ending "so\\.[0-9.]+\n")
endif()
set(contents
    "/include/torchlora/torchlora\\.h\n"
    "/include/torchlora/lora/overlay\\.h\n"
    "/libtorchlora_core\\.${ending}"
    "/libtorchlora_gemma4\\.${ending}"
    "/libtorchlora_tokenizer\\.${ending}"
    "/libtorchlora_train\\.${ending}"
    "/cmake/torchlora/torchloraConfig\\.cmake\n"
    "/pkgconfig/torchlora\\.pc\n"
    "/share/doc/torchlora/LICENSE")
if(PROGRAM)
  list(APPEND contents "/bin/torchlora\n")
endif()
file(GLOB tar ${folder}/torchlora-${VERSION}-*.tar.gz)
output_of(list ${CMAKE_COMMAND} -E tar tzf ${tar})
expect("${list}\n" ${contents})

if(DPKG_DEB)
  file(GLOB deb ${folder}/torchlora_${VERSION}_*.deb)
  output_of(list ${DPKG_DEB} --contents ${deb})
  expect("${list}\n" ${contents} "\\./usr/include/")
  output_of(architecture dpkg --print-architecture)
  set(depends "libpcre2-dev .*pkg-config")
  if(SHARED)
    set(depends "libpcre2-8-0 ")
  endif()
  output_of(fields ${DPKG_DEB} --field ${deb})
  expect(
    "\n${fields}\n"
    "\nPackage: torchlora\n"
    "\nVersion: ${VERSION}\n"
    "\nArchitecture: ${architecture}\n"
    "\nDepends: libc6 \\(>= [0-9.]+\\), libgcc-s1 [^,]*, libstdc\\+\\+6 [^,]*, ${depends}"
    "\n Needs LibTorch ${TORCH_VERSION}, which no dependency")
endif()
