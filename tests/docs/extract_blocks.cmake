# Writes the ```cpp blocks of README.md and of docs/ to OUTPUT, one translation
# unit, with #line directives to the pages:
#   cmake -DSOURCE_DIR=… -DOUTPUT=… -P extract_blocks.cmake
#
# The blocks of a page are in one namespace, in their order; one with a main()
# is a program, in a namespace of its own; those that begin with "```cpp
# fragment" are statements: together, in their order, one function behind all
# other blocks of the page. The #includes come before everything.
cmake_minimum_required(VERSION 3.24)

file(GLOB pages ${SOURCE_DIR}/docs/*.md ${SOURCE_DIR}/docs/*/*.md)
list(PREPEND pages ${SOURCE_DIR}/README.md)
set(includes "")
set(code "")
set(page_number 0)
foreach(page IN LISTS pages)
  math(EXPR page_number "${page_number} + 1")
  set(page_name page_${page_number})
  file(READ ${page} rest)
  string(PREPEND rest "\n")
  set(declarations "")
  set(fragments "")
  set(line 0) # of the last character before `rest`
  while(TRUE)
    string(FIND "${rest}" "\n```cpp" begin)
    if(begin EQUAL -1)
      break()
    endif()
    string(SUBSTRING "${rest}" 0 ${begin} before)
    math(EXPR begin "${begin} + 7")
    string(SUBSTRING "${rest}" ${begin} -1 rest)
    string(FIND "${rest}" "\n" end_of_fence)
    string(SUBSTRING "${rest}" 0 ${end_of_fence} kind)
    math(EXPR after_fence "${end_of_fence} + 1")
    string(SUBSTRING "${rest}" ${after_fence} -1 rest)
    string(PREPEND rest "\n") # of a block without lines
    string(FIND "${rest}" "\n```" length)
    string(REGEX REPLACE "[^\n]" "" newlines "${before}")
    string(LENGTH "${newlines}" count)
    math(EXPR line "${line} + ${count} + 1") # of the fence
    math(EXPR first_line "${line} + 1")
    if(length LESS 1)
      message(FATAL_ERROR "${page}:${line}: the block has no lines, or no end")
    endif()
    string(SUBSTRING "${rest}" 0 ${length} block)
    string(SUBSTRING "${block}" 1 -1 block)
    string(SUBSTRING "${rest}" ${length} -1 rest)
    string(REGEX REPLACE "[^\n]" "" newlines "${block}")
    string(LENGTH "${newlines}" count)
    math(EXPR line "${line} + ${count} + 1") # the last of the block

    # The headers, by the line of their block.
    set(text "\n${block}")
    set(where "#line ${first_line} \"${page}\"")
    string(REGEX MATCHALL "\n#include [<\"][^>\"\n]*[>\"]" found "${text}")
    foreach(include IN LISTS found)
      string(APPEND includes "${where}${include}\n")
    endforeach()
    if(kind STREQUAL " fragment")
      string(APPEND fragments "${where}\n${block}\n")
    elseif(NOT kind STREQUAL "")
      message(FATAL_ERROR "${page}:${line}: unknown kind of block, cpp${kind}")
    elseif(block MATCHES "int main\\(")
      string(APPEND code "namespace ${page_name}_line_${first_line} {\n${where}\n${block}\n}\n")
    else()
      string(APPEND declarations "${where}\n${block}\n")
    endif()
  endwhile()
  if(fragments)
    string(APPEND declarations "inline void fragments() {\n${fragments}}\n")
  endif()
  string(APPEND code "namespace ${page_name} {\n${declarations}}\n")
endforeach()
file(WRITE ${OUTPUT} "${includes}${code}")
