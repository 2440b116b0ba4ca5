// adapter_model.bin: the zip format and the pickle of torch.save.

#include <cstring>
#include <fstream>
#include <limits>
#include <map>
#include <random>

#include "support.h"

#include <torchlora/error.h>
#include <torchlora/nn/linear.h>

namespace torchlora {
namespace {
namespace fs = std::filesystem;

std::string little(uint64_t value, size_t bytes) {
  std::string text;
  for (size_t i = 0; i < bytes; ++i) {
    text.push_back(static_cast<char>(i < 8 ? value >> (8 * i) : 0));
  }
  return text;
}

uint32_t crc32(const std::string& bytes) {
  uint32_t crc = 0xffffffff;
  for (const auto c : bytes) {
    crc ^= static_cast<unsigned char>(c);
    for (int bit = 0; bit < 8; ++bit) {
      crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0xedb88320 : 0);
    }
  }
  return ~crc;
}

/// An archive without compression.
std::string zip(const std::map<std::string, std::string>& files) {
  std::string archive, directory;
  for (const auto& [name, content] : files) {
    const auto fields = little(20, 2) + little(0, 8) +
        little(crc32(content), 4) + little(content.size(), 4) +
        little(content.size(), 4) + little(name.size(), 2) + little(0, 2);
    directory += "PK\1\2" + little(20, 2) + fields + little(0, 10) +
        little(archive.size(), 4) + name;
    archive += "PK\3\4" + fields + name + content;
  }
  const auto begin = archive.size();
  return archive + directory + std::string("PK\5\6") + little(0, 4) +
      little(files.size(), 2) + little(files.size(), 2) +
      little(directory.size(), 4) + little(begin, 4) + little(0, 2);
}

std::string text(const std::string& value) {
  return "X" + little(value.size(), 4) + value;
}

/// Numbers of a tensor: elements of its storage, offset, sizes, strides.
struct Layout {
  int64_t storage = 24, offset = 0;
  std::vector<int64_t> sizes{4, 6}, strides{6, 1};
};

std::string integer(int64_t value) {
  return "\x8a\x08" + little(static_cast<uint64_t>(value), 8);
}

std::string tuple(const std::vector<int64_t>& values) {
  std::string result = "(";
  for (const auto value : values) {
    result += integer(value);
  }
  return result + "t";
}

std::string tensor(const std::string& file, const Layout& layout = {}) {
  return "ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") +
      "ctorch\nFloatStorage\n" + text(file) + text("cpu") +
      integer(layout.storage) + "tQ" + integer(layout.offset) +
      tuple(layout.sizes) + tuple(layout.strides) +
      "\x89"
      "ccollections\nOrderedDict\n)RtR";
}

class PickledAdapters : public testing::Test {
 protected:
  PickledAdapters() {
    fs::remove_all(folder_);
    const auto peft = get_peft_model(*model_, config_);
    peft.save_pretrained(folder_);
    auto copy = peft;
    copy.unload();
    fs::remove(folder_ / "adapter_model.safetensors");
  }
  /// The whole file of one adapter.
  std::string pickle(const Layout& layout = {}) const {
    const std::string prefix = "base_model.model.fc.";
    return "\x80\x02}(" + text(prefix + "lora_A.weight") + tensor("0", layout) +
        text(prefix + "lora_B.weight") + tensor("1", {12, 0, {3, 4}, {4, 1}}) +
        "u.";
  }
  std::string archive(const std::string& pickle) const {
    std::string a, b;
    for (int i = 0; i < 24; ++i) {
      const auto value = static_cast<float>(i);
      a.append(reinterpret_cast<const char*>(&value), 4);
    }
    b = std::string(48, '\0');
    return zip(
        {{"adapter_model/data.pkl", pickle},
         {"adapter_model/data/0", a},
         {"adapter_model/data/1", b}});
  }
  PeftModel load(const std::string& bytes) {
    std::ofstream(folder_ / "adapter_model.bin", std::ios::binary) << bytes;
    return PeftModel::from_pretrained(*model_, folder_);
  }
  std::string why_not(const std::string& bytes) {
    return refusal<DataError>([&] { load(bytes).unload(); });
  }
  struct Net : torch::nn::Module {
    nn::Linear fc = register_module("fc", nn::Linear(6, 3));
  };
  const LoraConfig config_ = LoraConfig(4).target_modules({"fc"});
  const std::shared_ptr<Net> model_ = test::make_module<Net>();
  const fs::path folder_ = fs::path(testing::TempDir()) / "pickled_adapters";
};

TEST_F(PickledAdapters, TensorsAreRead) {
  auto peft = load(archive(pickle()));
  const auto A = peft.state_dict()["base_model.model.fc.lora_A.weight"];
  EXPECT_TRUE(A.equal(test::arange(24.0).view({4, 6})));
  peft.unload();
  peft = load(archive(pickle({24, 0, {4, 6}, {1, 4}}))); // transposed
  EXPECT_TRUE(peft.state_dict()["base_model.model.fc.lora_A.weight"].equal(
      test::arange(24.0).view({6, 4}).t()));
}

TEST_F(PickledAdapters, NoSizeInThePickleIsTrusted) {
  const int64_t huge = int64_t{1} << 62;
  const Layout layouts[] = {
      {25},
      {huge},
      {-1},
      {24, 1},
      {24, -1},
      {24, huge},
      {24, 0, {5, 6}, {6, 1}},
      {24, 0, {4, 6}, {6, huge}},
      {24, 0, {4, 6}, {-6, 1}},
      {24, 0, {-4, -6}, {6, 1}},
      {24, 0, {huge, huge}, {0, 0}},
      {24, 0, {1000, 1000}, {0, 0}},
      {24, 0, {4, 6}, {6}},
      {24, 0, std::vector<int64_t>(100, 1), std::vector<int64_t>(100, 1)},
  };
  for (const auto& layout : layouts) {
    EXPECT_NE(
        why_not(archive(pickle(layout))).find("adapter_model.bin"),
        std::string::npos)
        << layout.storage << " " << layout.offset << " " << layout.sizes;
  }
}

TEST_F(PickledAdapters, OtherPicklesAreRefusedInLittleMemory) {
  const std::string nothings(600000, 'N');
  const std::pair<std::string, const char*> table[] = {
      {"", "cut off"},
      {"\x80\x02}", "cut off"},
      {"\x80\x02.", "stack is empty"},
      {"\x80\x02N.", "something else than a dict"},
      {std::string(300000, ']') + ".", "something else than tensors"},
      {std::string(3000000, '('), "too many values"},
      {std::string(3000000, '}') + ".", "too many values"},
      {"}" + std::string(3000000, '\x94') + ".", "too many values"},
      {")" + std::string(3000000, '\x85') + ".", "too many values"},
      {"}(" + nothings + "u(" + nothings + "u.", "too many values"},
      {"(" + nothings + "t(" + nothings + "t.", "too many values"},
      {"}" + text("a") + tensor("7", {0, 0, {0}, {1}}) + "s.", "missing (2)"},
      {"}rch\nF.", "missing (2)"}, // an empty dict, entry 1,174,005,859
      {std::string("}X\x01\x00\xff\xff", 6) + "aaa", "cut off"},
      {"}\x8d" + little(uint64_t{1} << 62, 8) + "a.", "something else"},
      {"}h\x05.", "memo is empty"},
      {"}" + text("a") + "Ns.", "\"a\" is not a tensor"},
      {"}NNs.", "a name is not a string"},
      {"}NNNu.", "a mark is missing"},
      {"cos\nsystem\n(" + text("true") + "tR.", "os.system, which is not"},
      {text("posix") + text("system") + "\x93.", "posix.system"},
      {"ctorch._utils\n_rebuild_tensor_v2\n)R.", "no storage"},
      {"(" + text("storage") + "tQ.", "something else than a storage"},
      {"}" + text("a") + tensor("7") + "s.", "data/7 is missing"},
      {"}" + text("a") + tensor(std::string(200, '0')) + "s.", "too long"},
      {"}" + text("a") + "\x8a\xff" + std::string(255, '1') + "s.", "large"},
  };
  for (const auto& [bytes, expected] : table) {
    const auto message = why_not(archive(bytes));
    EXPECT_NE(message.find(expected), std::string::npos)
        << bytes.substr(0, 40) << ": " << message;
    EXPECT_NE(message.find("adapter_model.bin"), std::string::npos) << message;
  }
}

TEST_F(PickledAdapters, DamagedArchivesAreRefused) {
  const auto good = archive(pickle());
  std::mt19937 generator(1);
  for (int i = 0; i < 100; ++i) {
    auto bad = good;
    const auto at = generator() % good.size();
    if (i % 4 == 0) {
      bad.resize(at);
    } else {
      bad[at] = static_cast<char>(bad[at] + 1 + generator() % 255);
    }
    refusal<DataError>([&] { load(bad).unload(); }); // and no other error
  }
  auto bad = good;
  bad[good.find("ctorch")] = 'd';
  EXPECT_NE(why_not(bad).find("checksum"), std::string::npos);
  for (const size_t size : {size_t{0}, size_t{4}, size_t{21}}) {
    EXPECT_NE(why_not(good.substr(0, size)).find("zip"), std::string::npos);
  }
}

TEST_F(PickledAdapters, DamagedPicklesAreRefused) {
  const auto good = pickle();
  std::mt19937 generator(2);
  for (int i = 0; i < 100; ++i) {
    auto bad = good;
    for (int k = 0; k <= i % 3; ++k) {
      bad[generator() % bad.size()] = static_cast<char>(generator());
    }
    refusal<DataError>([&] { load(archive(bad)).unload(); });
  }
}

TEST_F(PickledAdapters, AFileOfAnotherFormatIsNamed) {
  for (const auto& [bytes, found] :
       std::vector<std::pair<std::string, std::string>>{
           {"version https://git-lfs.github.com/spec/v1\noid sha256:4",
            "found a Git LFS pointer"},
           {"<!DOCTYPE html><html></html>", "found a web page"},
           {"\x80\x02}q.", "found a Python pickle"}}) {
    const auto message = why_not(bytes);
    EXPECT_NE(message.find(found), std::string::npos) << message;
    EXPECT_EQ(message.find("zip"), std::string::npos) << message;
    EXPECT_NE(message.find("adapter_model.bin"), std::string::npos) << message;
  }
}

TEST_F(PickledAdapters, AFactorThatIsNotFiniteIsNamed) {
  const auto nan = std::numeric_limits<float>::quiet_NaN();
  std::string a(96, '\0');
  std::memcpy(a.data(), &nan, sizeof(nan));
  const auto message = why_not(zip(
      {{"x/data.pkl", pickle()},
       {"x/data/0", a},
       {"x/data/1", std::string(48, '\0')}}));
  EXPECT_NE(
      message.find("base_model.model.fc.lora_A.weight has NaN"),
      std::string::npos)
      << message;
}

} // namespace
} // namespace torchlora
