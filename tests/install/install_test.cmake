# Installs the build tree into a new folder, moves that, and looks at what is
# there: every public header, and no path of the folder, the sources or the
# build.
include(${CMAKE_CURRENT_LIST_DIR}/common.cmake)
set(first_prefix ${WORK_DIR}/installed)
cmake_path(GET prefix PARENT_PATH parent)
file(REMOVE_RECURSE ${first_prefix} ${parent})
file(MAKE_DIRECTORY ${parent})
run(${CMAKE_COMMAND} --install ${BUILD_DIR} --prefix ${first_prefix})
file(RENAME ${first_prefix} ${prefix})

file(GLOB_RECURSE headers RELATIVE ${SOURCE_DIR}/include ${SOURCE_DIR}/include/*)
file(GLOB_RECURSE installed RELATIVE ${prefix}/include ${prefix}/include/*)
if(NOT headers STREQUAL installed)
  message(FATAL_ERROR "headers:\n${headers}\ninstalled:\n${installed}")
endif()

file(GLOB texts ${prefix}/${LIBDIR}/cmake/torchlora/*.cmake ${prefix}/${LIBDIR}/pkgconfig/*.pc)
list(LENGTH texts count)
if(count LESS 8)
  message(FATAL_ERROR "missing package files, there are: ${texts}")
endif()
foreach(file IN LISTS texts)
  file(READ ${file} text)
  # LibTorch may be in the build folder.
  string(REPLACE ${TORCH_DIR} "" text "${text}")
  string(REGEX REPLACE "\ntorch=[^\n]*" "" text "${text}")
  foreach(folder IN ITEMS ${SOURCE_DIR} ${BUILD_DIR} ${first_prefix})
    string(FIND "${text}" ${folder} place)
    if(NOT place EQUAL -1)
      message(FATAL_ERROR "${file} names ${folder}")
    endif()
  endforeach()
endforeach()

if(EXISTS ${prefix}/bin/torchlora)
  output_of(text ${prefix}/bin/torchlora --version)
  expect("${text}" "torchlora ${VERSION}" "LibTorch ${TORCH_VERSION}")
endif()
