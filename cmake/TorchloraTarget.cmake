# torchlora_target(NAME): the compile options that every target of the project
# has and that its users do not get.
function(torchlora_target name)
  target_compile_options(${name} PRIVATE -Wall -Wextra -Wshadow -Wnon-virtual-dtor)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
    # g++ 12 warns of libstdc++'s own std::string::insert and operator+ (its
    # bug 105651).
    target_compile_options(${name} PRIVATE -Wno-stringop-overflow -Wno-restrict -Wno-array-bounds)
  endif()
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_UNITY_BUILD)
    # The sources of a unit are included, and g++ takes them for headers.
    target_compile_options(${name} PRIVATE -Wno-subobject-linkage)
  endif()
  if(TORCHLORA_WERROR)
    target_compile_options(${name} PRIVATE -Werror)
  endif()
  set_target_properties(
    ${name} PROPERTIES CXX_STANDARD 20 CXX_STANDARD_REQUIRED ON CXX_EXTENSIONS OFF
                       CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON)
  if(TORCHLORA_INSTALL) # our libraries in the prefix, LibTorch where it was linked
    cmake_path(APPEND libdir "$ORIGIN/.." ${CMAKE_INSTALL_LIBDIR})
    set_target_properties(
      ${name} PROPERTIES INSTALL_RPATH "$ORIGIN;${libdir};${TORCH_INSTALL_PREFIX}/lib")
  endif()
  if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
    # ccache and precompiled headers: no time stamp in the header
    target_compile_options(${name} PRIVATE "SHELL:-Xclang -fno-pch-timestamp")
  endif()
  # A precompiled header is shared only between targets that are both PIC.
  target_compile_options(${name} PRIVATE -fPIC)
endfunction()

# torchlora_library(NAME SOURCES … LINK … PRIVATE_LINK …): one component.
function(torchlora_library component)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINK;PRIVATE_LINK" ${ARGN})
  set(name torchlora_${component})
  add_library(${name} ${ARG_SOURCES})
  add_library(torchlora::${component} ALIAS ${name})
  target_link_libraries(${name} PUBLIC ${ARG_LINK})
  # Users of the static library link its compiled dependencies too; header-only
  # ones stay out of the package.
  foreach(lib IN LISTS ARG_PRIVATE_LINK)
    if(lib MATCHES "^PkgConfig::" OR lib IN_LIST CMAKE_DL_LIBS)
      target_link_libraries(${name} PRIVATE ${lib})
    else()
      target_link_libraries(${name} PRIVATE $<BUILD_INTERFACE:${lib}>)
    endif()
  endforeach()
  target_compile_features(${name} PUBLIC cxx_std_20)
  # The installed headers' folder comes with their file set.
  target_include_directories(
    ${name} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>
            PRIVATE ${PROJECT_SOURCE_DIR}/src)
  set_target_properties(
    ${name} PROPERTIES POSITION_INDEPENDENT_CODE ON EXPORT_NAME ${component}
                       # no macro of its own: they share a precompiled header
                       DEFINE_SYMBOL ""
                       VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})
  torchlora_target(${name})
endfunction()

# torchlora_quick_to_compile(NAME): for tests and examples. <torch/torch.h> is
# precompiled once for all of them, and GoogleTest's header where it is known. It
# belongs to an object library without code: a program of which others reuse it
# would have to be linked before they compile. Their own code is not optimized,
# which would be two thirds of the time: it waits for the libraries, which are.
function(torchlora_quick_to_compile name)
  if(NOT TARGET torchlora_torch_header)
    file(CONFIGURE OUTPUT torch_header.cpp CONTENT "")
    add_library(torchlora_torch_header OBJECT ${CMAKE_CURRENT_BINARY_DIR}/torch_header.cpp)
    target_link_libraries(torchlora_torch_header PRIVATE torch)
    torchlora_target(torchlora_torch_header)
    target_compile_options(torchlora_torch_header PRIVATE -O0)
    target_precompile_headers(torchlora_torch_header PRIVATE <torch/torch.h>)
    if(TARGET GTest::gtest)
      target_link_libraries(torchlora_torch_header PRIVATE GTest::gtest)
      target_precompile_headers(torchlora_torch_header PRIVATE <gtest/gtest.h>)
    endif()
  endif()
  target_compile_options(${name} PRIVATE -O0)
  target_precompile_headers(${name} REUSE_FROM torchlora_torch_header)
endfunction()
