# What the scripts of this folder share. $prefix is where the package is once
# PackageInstall has moved it there.
set(prefix "${WORK_DIR}/moved here/torchlora")

function(run)
  execute_process(COMMAND ${ARGN} COMMAND_ERROR_IS_FATAL ANY)
endfunction()

# output_of(OUT COMMAND…)
function(output_of out)
  execute_process(
    COMMAND ${ARGN} OUTPUT_VARIABLE output OUTPUT_STRIP_TRAILING_WHITESPACE
    COMMAND_ERROR_IS_FATAL ANY)
  set(${out} "${output}" PARENT_SCOPE)
endfunction()

# expect(TEXT REGEX…): each is found in the text.
function(expect text)
  foreach(regex IN LISTS ARGN)
    if(NOT text MATCHES "${regex}")
      message(FATAL_ERROR "no \"${regex}\" in:\n${text}")
    endif()
  endforeach()
endfunction()
