#pragma once

#include <filesystem>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "tokenizer/vocabulary.h"

namespace torchlora::detail {

/// The largest token id: ids are numbers of 32 bits in the reference, and an
/// int in many a model.
constexpr uint64_t kMaxTokenId = (uint64_t{1} << 31) - 1;

/// A tokenizer.json, parsed. The vocabulary and the merges of its model have
/// hundreds of thousands of entries, so they are read straight into tables.
struct TokenizerFile {
  using Merge = std::pair<std::string_view, std::string_view>;

  Vocabulary vocabulary;
  /// Views of the vocabulary's buffer.
  std::vector<Merge> merges;
  /// Everything else.
  nlohmann::json rest;
  bool has_vocabulary = false, has_merges = false;
};

/// DataError names the file.
TokenizerFile read_tokenizer_file(const std::filesystem::path& path);

} // namespace torchlora::detail
