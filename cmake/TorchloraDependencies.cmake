# Dependencies of the compiled libraries; none of them is in a public header.
if(NOT TARGET nlohmann_json::nlohmann_json) # a project above may have it
  find_package(nlohmann_json 3.10 REQUIRED)
endif()
find_package(PkgConfig REQUIRED)
pkg_check_modules(TORCHLORA_PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8)

# fmt is the copy that LibTorch bundles (a system fmt of another version does
# not link with it); a system fmt only where LibTorch has none.
find_path(TORCHLORA_FMT_INCLUDE_DIR fmt/format.h PATHS ${TORCH_INCLUDE_DIRS} NO_DEFAULT_PATH)
if(TORCHLORA_FMT_INCLUDE_DIR)
  add_library(torchlora_fmt INTERFACE IMPORTED)
  target_include_directories(torchlora_fmt SYSTEM INTERFACE ${TORCHLORA_FMT_INCLUDE_DIR})
  target_compile_definitions(torchlora_fmt INTERFACE FMT_HEADER_ONLY=1)
else()
  find_package(fmt REQUIRED)
  add_library(torchlora_fmt INTERFACE IMPORTED)
  target_link_libraries(torchlora_fmt INTERFACE fmt::fmt-header-only)
endif()
