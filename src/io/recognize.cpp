#include "io/recognize.h"

#include <algorithm>
#include <cctype>

namespace torchlora::io {

namespace {

struct Signature {
  std::string_view begin;
  const char* text;
};

using namespace std::string_view_literals;

constexpr Signature kSignatures[] = {
    {"PAR1"sv,
     "a parquet file; convert it: python3 -c \"import pandas; "
     "pandas.read_parquet('FILE').to_json('FILE.jsonl', orient='records', "
     "lines=True)\""},
    {"ARROW1"sv,
     "an Arrow file; convert it with the `datasets` package: "
     "Dataset.from_file('FILE').to_json('FILE.jsonl')"},
    {"\x1f\x8b"sv, "a gzip file; unpack it (gunzip)"},
    {"BZh"sv, "a bzip2 file; unpack it (bunzip2)"},
    {"\xfd"
     "7zXZ"sv,
     "an xz file; unpack it (unxz)"},
    {"\x28\xb5\x2f\xfd"sv, "a zstd file; unpack it (unzstd)"},
    {"PK\x03\x04"sv,
     "a zip file, as PyTorch's .bin and .pt files are; unpack it, or convert "
     "weights to safetensors"},
    {"7z\xbc\xaf"sv, "a 7z archive; unpack it"},
    {"\x80\x02"sv, "a Python pickle; convert it, weights to safetensors"},
    {"\x80\x04"sv, "a Python pickle; convert it"},
    {"\x80\x05"sv, "a Python pickle; convert it"},
    {"GGUF"sv, "a GGUF file; use the original Hugging Face folder"},
    {"\x89HDF"sv, "an HDF5 file; convert it, weights to safetensors"},
    {"SQLite format 3"sv, "an SQLite database; export it"},
    {"version https://git-lfs"sv,
     "a Git LFS pointer, which stands for the file; fetch the file itself "
     "(git lfs pull)"},
    {"\xff\xfe"sv,
     "UTF-16 text; convert it (iconv -f UTF-16 -t UTF-8 FILE > NEW)"},
    {"\xfe\xff"sv,
     "UTF-16 text; convert it (iconv -f UTF-16 -t UTF-8 FILE > NEW)"},
    {"%PDF"sv, "a PDF file"},
    {"\x7f"
     "ELF"sv,
     "a program"},
};

/// Returns the first line that is neither empty nor a comment.
std::string_view first_line(std::string_view text) {
  std::string_view line;
  do {
    const auto begin = text.find_first_not_of(" \t\r\n");
    if (begin == std::string_view::npos) {
      return {};
    }
    text.remove_prefix(begin);
    line = text.substr(0, text.find('\n'));
    text.remove_prefix(line.size());
  } while (line.starts_with('#'));
  return line;
}

bool is_web_page(std::string_view line) {
  std::string lower(line.substr(0, 64));
  std::ranges::transform(
      lower, lower.begin(), [](unsigned char c) { return std::tolower(c); });
  return lower.starts_with("<!doctype html") || lower.starts_with("<html");
}

/// "key: value" or "- key: value", which is neither JSON nor `key = value`.
bool is_yaml(std::string_view line) {
  const bool is_item = line.starts_with("- ");
  if (is_item) {
    line.remove_prefix(2);
  }
  const auto end = std::ranges::find_if_not(
                       line,
                       [](unsigned char c) {
                         return std::isalnum(c) || c == '_' || c == '-';
                       }) -
      line.begin();
  const auto rest = line.substr(end);
  return end > 0 && (rest == ":" || rest == ":\r" || rest.starts_with(": "));
}

/// The names of columns, with commas or tabs between them.
bool is_csv(std::string_view line) {
  const bool has_columns =
      line.find("chosen") != line.npos && line.find("rejected") != line.npos;
  return has_columns && line.find_first_of("{[=") == line.npos &&
      line.find_first_of(",;\t") != line.npos;
}

} // namespace

std::string recognized_format(std::string_view content) {
  for (const auto& signature : kSignatures) {
    if (content.starts_with(signature.begin)) {
      return signature.text;
    }
  }
  if (content.size() >= 16 && content[8] == '{' &&
      std::all_of(content.begin() + 3, content.begin() + 8, [](char c) {
        return c == 0;
      })) {
    return "a safetensors file";
  }
  if (content.size() >= 2 && content.substr(0, 64).find('\0') != content.npos) {
    return content[1] == 0 || content[0] == 0
        ? "UTF-16 or UTF-32 text; convert it (iconv -f UTF-16 -t UTF-8 FILE > "
          "NEW)"
        : "binary data";
  }
  const auto line = first_line(content);
  if (is_web_page(line)) {
    return "a web page, as a download without a login gives; download the "
           "file itself";
  }
  if (line == "---" || line.starts_with("%YAML") || is_yaml(line)) {
    return "YAML; convert it";
  }
  if (is_csv(line)) {
    return "CSV; convert it: python3 -c \"import pandas; "
           "pandas.read_csv('FILE').to_json('FILE.jsonl', orient='records', "
           "lines=True)\"";
  }
  return "";
}

} // namespace torchlora::io
