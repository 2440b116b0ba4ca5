# Configures, builds and runs PROJECT against the installed package, as a
# user's project would; with FIND_TORCH it is not told where LibTorch is.
include(${CMAKE_CURRENT_LIST_DIR}/common.cmake)
set(build ${WORK_DIR}/${PROGRAM})
file(REMOVE_RECURSE ${build})
set(torch -DTorch_DIR=${TORCH_DIR})
if(FIND_TORCH)
  set(torch)
endif()
run(${CMAKE_COMMAND} -S ${SOURCE_DIR}/${PROJECT} -B ${build} -G Ninja
    -DCMAKE_PREFIX_PATH=${prefix} ${torch} -DCMAKE_CXX_COMPILER=${CXX}
    -DCMAKE_CXX_COMPILER_LAUNCHER=${CXX_LAUNCHER} -Wno-dev)
run(${CMAKE_COMMAND} --build ${build})
run(${build}/${PROGRAM})
