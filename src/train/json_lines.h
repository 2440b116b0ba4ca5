#pragma once

#include <filesystem>
#include <functional>
#include <string>

#include <nlohmann/json.hpp>

namespace torchlora::train {

/// Calls `visit` for each line of a JSONL file that is not blank, with what the
/// line holds and where it is ("pairs.jsonl:17"). NaN and Infinity, which
/// Python's json writes for missing numbers, are null. DataError names file and
/// line of what is not JSON, and says what a file is that has another format.
void for_each_json_line(
    const std::filesystem::path& path,
    const std::function<
        void(const nlohmann::json& value, const std::string& source)>& visit);

} // namespace torchlora::train
