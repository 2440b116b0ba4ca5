# Installs the build tree into a new folder, then configures, builds and runs
# examples/consumer against it, as a user's project would.
set(prefix ${WORK_DIR}/prefix)
set(build ${WORK_DIR}/build)
file(REMOVE_RECURSE ${WORK_DIR})

function(run)
  execute_process(COMMAND ${ARGN} COMMAND_ERROR_IS_FATAL ANY)
endfunction()

run(${CMAKE_COMMAND} --install ${BUILD_DIR} --prefix ${prefix})
run(${CMAKE_COMMAND} -S ${SOURCE_DIR}/examples/consumer -B ${build} -G Ninja
    -DCMAKE_PREFIX_PATH=${prefix} -DTorch_DIR=${TORCH_DIR}
    -DCMAKE_CXX_COMPILER=${CXX} -DCMAKE_CXX_COMPILER_LAUNCHER=${CXX_LAUNCHER})
run(${CMAKE_COMMAND} --build ${build})
run(${build}/consumer)
if(EXISTS ${prefix}/bin/torchlora)
  run(${prefix}/bin/torchlora --version)
endif()
