#include <sys/resource.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <random>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/error.h>
#include <torchlora/io/atomic_file.h>
#include <torchlora/io/safetensors.h>

namespace torchlora::io {
namespace {
namespace fs = std::filesystem;

fs::path temporary(const std::string& name) {
  return fs::path(testing::TempDir()) / name;
}

std::string with_length(const std::string& header, const std::string& data) {
  std::string file;
  for (size_t i = 0; i < 8; ++i) {
    file.push_back(static_cast<char>(header.size() >> (8 * i)));
  }
  return file + header + data;
}

fs::path write(const std::string& content) {
  const auto path = temporary("case.safetensors");
  std::ofstream(path, std::ios::binary) << content;
  return path;
}

std::string entry(
    const std::string& dtype,
    const std::string& shape,
    const std::string& offsets) {
  return R"({"dtype":")" + dtype + R"(","shape":)" + shape +
      R"(,"data_offsets":)" + offsets + "}";
}

/// While it lives a file cannot grow beyond `bytes`: a write fails as on a full
/// disk.
class NoRoom {
 public:
  explicit NoRoom(rlim_t bytes) {
    handler_ = std::signal(SIGXFSZ, SIG_IGN);
    ::getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit = {bytes, before_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~NoRoom() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }

 private:
  rlimit before_ = {};
  void (*handler_)(int);
};

TEST(Safetensors, EveryMalformedFileIsAClearError) {
  const auto a = entry("F32", "[2]", "[0,8]");
  const std::string data(8, '\0');
  const std::pair<const char*, std::string> table[] = {
      {"0", ""},
      {"at least 8 bytes", "1234567"},
      {"truncated", with_length(R"({"a":)" + a + "}", data).substr(0, 20)},
      {"truncated", with_length(R"({"a":)" + a + "}", data.substr(0, 7))},
      {"left over", with_length(R"({"a":)" + a + "}", data + "x")},
      {"limit", std::string("\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x7F") + "{}"},
      {"limit", std::string(8, '\xFF') + "{}"},
      {"truncated", std::string("\x10\0\0\0\0\0\0\0", 8) + "{}"},
      {"not valid JSON", std::string(8, '\0')},
      {"not valid JSON", with_length("{", "")},
      {"not valid JSON", with_length("{\"\xFF\":1}", "")},
      {"JSON object", with_length("[]", "")},
      {"twice", with_length(R"({"a":)" + a + R"(,"a":)" + a + "}", data)},
      {"twice", with_length(R"({"\u0061":)" + a + R"(,"a":)" + a + "}", data)},
      {"twice", with_length(R"({"a":{"dtype":"F32","dtype":"F16"}})", "")},
      {"nested deeper",
       with_length(
           R"({"a":)" + std::string(200000, '[') + std::string(200000, ']') +
               "}",
           "")},
      {"expected", with_length(R"({"a":1})", "")},
      {"expected", with_length(R"({"a":{"dtype":"F32","shape":[2]}})", data)},
      {"expected",
       with_length(R"({"a":)" + entry("F32", "2", "[0,8]") + "}", data)},
      {"expected",
       with_length(R"({"a":)" + entry("F32", "[2]", "[0,4,8]") + "}", data)},
      {"not negative",
       with_length(R"({"a":)" + entry("F32", "[2]", "[-8,0]") + "}", data)},
      {"not negative",
       with_length(R"({"a":)" + entry("F32", "[\"2\"]", "[0,8]") + "}", data)},
      {"F7", with_length(R"({"a":)" + entry("F7", "[2]", "[0,8]") + "}", data)},
      {"need 12 bytes",
       with_length(R"({"a":)" + entry("F32", "[3]", "[0,8]") + "}", data)},
      {"end before they begin",
       with_length(R"({"a":)" + entry("F32", "[2]", "[8,0]") + "}", data)},
      {"not negative",
       with_length(R"({"a":)" + entry("F32", "[-2]", "[0,8]") + "}", data)},
      {"not negative",
       with_length(R"({"a":)" + entry("F32", "[2.5]", "[0,8]") + "}", data)},
      {"too large",
       with_length(
           R"({"a":)" + entry("F32", "[4611686018427387904,4]", "[0,8]") + "}",
           data)},
      {"too large",
       with_length(
           R"({"a":)" + entry("F32", "[0,9223372036854775807,2]", "[0,0]") +
               "}",
           "")},
      {"not negative",
       with_length(
           R"({"a":)" + entry("F32", "[36893488147419103232]", "[0,0]") + "}",
           "")},
      {"overlap",
       with_length(
           R"({"a":)" + a + R"(,"b":)" + entry("F32", "[1]", "[4,8]") + "}",
           data)},
      {"overlap", with_length(R"({"a":)" + a + R"(,"b":)" + a + "}", data)},
      {"hole",
       with_length(R"({"a":)" + entry("F32", "[1]", "[4,8]") + "}", data)},
      {"truncated",
       with_length(R"({"a":)" + entry("F32", "[100]", "[0,400]") + "}", data)},
      {"__metadata__", with_length(R"({"__metadata__":{"a":1}})", "")},
      {"__metadata__", with_length(R"({"__metadata__":[]})", "")},
  };
  for (const auto& [cause, content] : table) {
    const auto path = write(content);
    try {
      SafetensorsFile file(path);
      ADD_FAILURE() << "taken: " << cause;
    } catch (const DataError& e) {
      const std::string message = e.what_without_backtrace();
      EXPECT_NE(message.find(cause), std::string::npos) << message;
      EXPECT_NE(message.find(path.string()), std::string::npos) << message;
    }
  }
  const std::pair<const char*, fs::path> no_files[] = {
      {"No such file", temporary("no such file")},
      {"Is a directory", temporary("")}};
  for (const auto& [cause, path] : no_files) {
    try {
      SafetensorsFile file(path);
      ADD_FAILURE() << cause;
    } catch (const DataError& e) {
      const std::string message = e.what_without_backtrace();
      EXPECT_NE(message.find(cause), std::string::npos) << message;
      EXPECT_NE(message.find(path.string()), std::string::npos) << message;
    }
  }
}

TEST(Safetensors, UnusualFilesThatAreRightAreRead) {
  // No __metadata__, an odd header length, data that is not aligned, a header
  // padded with spaces, a scalar and an empty tensor.
  for (const std::string padding : {"", " ", "      "}) {
    const auto header = R"({"s":)" + entry("F32", "[]", "[1,5]") + R"(,"u":)" +
        entry("U8", "[1]", "[0,1]") + R"(,"e":)" +
        entry("BF16", "[0,3]", "[5,5]") + "}" + padding;
    const float value = 1.5F;
    std::string data("\x07");
    data.append(reinterpret_cast<const char*>(&value), sizeof(value));
    const SafetensorsFile file(write(with_length(header, data)));
    EXPECT_TRUE(file.metadata().empty());
    EXPECT_EQ(file.tensor("s").item<float>(), 1.5F);
    EXPECT_EQ(file.tensor("u").item<int>(), 7);
    EXPECT_EQ(file.tensor("e").sizes(), (std::vector<int64_t>{0, 3}));
    EXPECT_THROW(file.tensor("x"), DataError);
    EXPECT_THROW(file.sizes("x"), DataError);
  }
}

// The file is the Python package's (tests/reference/make_safetensors_golden.py
// tells the data), with every dtype that it shares with LibTorch.
TEST(Safetensors, EqualsThePythonPackageByteForByteInEveryDtype) {
  const auto golden =
      fs::path(TORCHLORA_TEST_DATA) / "safetensors" / "all_dtypes.safetensors";
  const SafetensorsFile file(golden);
  EXPECT_EQ(file.metadata().at("format"), "pt");
  EXPECT_EQ(file.tensor("scalar").item<float>(), 2.5F);
  EXPECT_EQ(file.tensor("empty").sizes(), (std::vector<int64_t>{0, 3}));
  EXPECT_EQ(file.tensor("transposed")[2][1].item<float>(), 5);
  int compared = 0;
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  for (const auto& key : file.keys()) {
    const auto tensor = file.tensor(key);
    tensors.emplace_back(
        key, key == "transposed" ? tensor.t().contiguous().t() : tensor);
    if (key == "scalar" || key == "empty" || key == "transposed") {
      continue;
    }
    EXPECT_EQ(tensor.sizes(), (std::vector<int64_t>{2, 3}));
    const auto i = torch::arange(static_cast<int64_t>(tensor.nbytes()));
    const auto bytes = key == "bool" ? i % 2 : (37 * i + 11) % 256;
    EXPECT_TRUE(torch::equal(
        tensor.clone().flatten().view(at::kByte), bytes.to(at::kByte)))
        << key;
    ++compared;
  }
  EXPECT_EQ(compared, 19);
  const auto path = temporary("all_dtypes.safetensors");
  save_safetensors(path, tensors);
  EXPECT_EQ(read_file(path), read_file(golden));
}

TEST(Safetensors, WritesWhatItIsGivenOrRefusesIt) {
  const auto path = temporary("written.safetensors");
  const auto ones = torch::ones({2});
  save_safetensors(
      path,
      {{"b", ones.to(at::kBFloat16)}, {"a \"\u00e9", torch::randn({4, 6}).t()}},
      {{"format", "pt"}, {"step", "3"}});
  EXPECT_EQ(read_file(path)[0] % 8, 0);
  const SafetensorsFile file(path);
  EXPECT_EQ(file.metadata().at("step"), "3");
  EXPECT_EQ(file.keys(), (std::vector<std::string>{"b", "a \"\u00e9"}));
  EXPECT_TRUE(file.contains("b"));
  EXPECT_FALSE(file.contains("c"));
  EXPECT_EQ(file.dtype("b"), at::kBFloat16);
  EXPECT_EQ(file.sizes("a \"\u00e9"), (std::vector<int64_t>{6, 4}));

  save_safetensors(path, {}, {});
  EXPECT_TRUE(SafetensorsFile(path).keys().empty());

  using Tensors = std::vector<std::pair<std::string, at::Tensor>>;
  for (const auto& bad : {
           Tensors{{"a", ones}, {"a", ones}},
           Tensors{{"__metadata__", ones}},
           Tensors{{"not UTF-8 \xFF", ones}},
           Tensors{{"complex", ones.to(at::kComplexDouble)}},
       }) {
    EXPECT_THROW(save_safetensors(path, bad), c10::ValueError) << bad[0].first;
  }
  EXPECT_TRUE(SafetensorsFile(path).keys().empty());
}

TEST(Safetensors, TensorsShareTheMappingAndOutliveTheFile) {
  const auto path = temporary("mapped.safetensors");
  save_safetensors(path, {{"a", torch::arange(4.0)}});
  at::Tensor first, second;
  {
    const SafetensorsFile file(path);
    first = file.tensor("a");
    second = file.tensor("a");
  }
  EXPECT_EQ(first.data_ptr(), second.data_ptr());
  first.add_(1);
  EXPECT_EQ(second[3].item<float>(), 4);
  EXPECT_EQ(SafetensorsFile(path).tensor("a")[3].item<float>(), 3);
}

TEST(Safetensors, AFailedWriteLeavesTheOldFileAndNoOther) {
  const auto folder = temporary("failed_write");
  fs::remove_all(folder);
  fs::create_directories(folder);
  const auto path = folder / "a.safetensors";
  save_safetensors(path, {{"a", torch::ones({2})}});
  EXPECT_THROW(
      save_safetensors(
          path, {{"a", torch::ones({2})}, {"a", torch::ones({2})}}),
      c10::ValueError);
  EXPECT_THROW(
      write_file_atomic(
          path,
          [](const auto& append) {
            append("half", 4);
            throw std::runtime_error("interrupted");
          }),
      std::runtime_error);
  {
    const NoRoom no_room(/*bytes=*/1000);
    try {
      save_safetensors(path, {{"a", torch::ones({4096})}});
      ADD_FAILURE();
    } catch (const c10::Error& e) {
      const std::string message = e.what_without_backtrace();
      EXPECT_NE(message.find("File too large"), std::string::npos) << message;
      EXPECT_NE(message.find(path.string()), std::string::npos) << message;
    }
  }
  EXPECT_EQ(SafetensorsFile(path).tensor("a").sum().item<float>(), 2);
  EXPECT_EQ(
      std::distance(fs::directory_iterator(folder), fs::directory_iterator()),
      1);
  try {
    write_file_atomic(path / "below a file", "x");
    ADD_FAILURE();
  } catch (const c10::Error& e) {
    EXPECT_NE(std::string(e.what()).find("Not a directory"), std::string::npos);
  }
}

// Every file that a flipped or missing byte makes is read or refused.
TEST(Safetensors, MutatedFilesNeverCrash) {
  const auto path = temporary("seed.safetensors");
  save_safetensors(
      path, {{"weight", torch::randn({3, 2})}, {"bias", torch::ones({2})}});
  const auto good = read_file(path);
  std::mt19937 generator(1);
  int refused = 0;
  for (int i = 0; i < 3000; ++i) {
    auto bad = good;
    const auto at = generator() % (i % 2 ? bad.size() : 150);
    if (i % 5 == 0) {
      bad.resize(at);
    } else {
      bad[at] = static_cast<char>(generator());
    }
    try {
      const SafetensorsFile file(write(bad));
      for (const auto& key : file.keys()) {
        file.tensor(key).clone();
      }
    } catch (const DataError&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 1000);
}

} // namespace
} // namespace torchlora::io
