# Configures the project of subdirectory/ (which checks what leaks), compiles
# its program, and links it by its own command with the library that this build
# has made already: the parent project would build the same.
include(${CMAKE_CURRENT_LIST_DIR}/common.cmake)
set(build ${WORK_DIR}/subdirectory)
file(REMOVE_RECURSE ${build})
run(${CMAKE_COMMAND} -S ${SOURCE_DIR}/tests/install/subdirectory -B ${build} -G Ninja
    -DCMAKE_MAKE_PROGRAM=${NINJA} -DTORCHLORA_SOURCE=${SOURCE_DIR} -DTORCHLORA_WERROR=ON -DTorch_DIR=${TORCH_DIR}
    -DCMAKE_CXX_COMPILER=${CXX} -DCMAKE_CXX_COMPILER_LAUNCHER=${CXX_LAUNCHER}
    -DCMAKE_BUILD_TYPE=${BUILD_TYPE} -Wno-dev)
run(${CMAKE_COMMAND} --build ${build} --target CMakeFiles/app.dir/main.cpp.o)

output_of(commands ${NINJA} -C ${build} -t commands app)
string(REGEX REPLACE ".*\n" "" link "${commands}")
expect("${link}" " -o app " "libtorchlora_core\\.a")
file(COPY ${LIBRARY} DESTINATION ${build}/_deps/torchlora-build/src)
execute_process(COMMAND sh -c "${link}" WORKING_DIRECTORY ${build} COMMAND_ERROR_IS_FATAL ANY)
run(${build}/app)

# Nothing of torchlora is installed with it.
run(${CMAKE_COMMAND} --install ${build} --prefix ${build}/prefix)
file(GLOB_RECURSE installed RELATIVE ${build}/prefix ${build}/prefix/*)
expect("${installed}" "^bin/app$")
