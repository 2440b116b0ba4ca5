#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "support.h"

#include <torchlora/adapter_files/adapter_config.h>
#include <torchlora/error.h>
#include <torchlora/io/atomic_file.h>
#include <torchlora/io/checkpoint.h>

#include "io/mapped_file.h"

namespace torchlora::io {
namespace {
namespace fs = std::filesystem;

/// A folder of things that are no regular files.
class InputFile : public testing::Test {
 protected:
  InputFile() {
    fs::remove_all(folder_);
    fs::create_directories(folder_ / "folder");
    ::mkfifo((folder_ / "fifo").c_str(), 0600);
    fs::create_symlink("/dev/zero", folder_ / "device");
    fs::create_symlink("../../blobs/0123", folder_ / "dangling");
    fs::create_symlink("loop", folder_ / "loop");
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    // A path of at most 107 bytes.
    const auto before = fs::current_path();
    fs::current_path(folder_);
    std::strcpy(address.sun_path, "socket");
    socket_ = ::socket(AF_UNIX, SOCK_STREAM, 0);
    ::bind(
        socket_, reinterpret_cast<const sockaddr*>(&address), sizeof(address));
    fs::current_path(before);
  }
  ~InputFile() override {
    ::close(socket_);
  }
  const fs::path folder_ = fs::path(testing::TempDir()) / "no_files";
  const std::vector<std::pair<std::string, std::string>> found_ = {
      {"folder", "found a folder"},
      {"fifo", "found a FIFO"},
      {"device", "found a character device"},
      {"socket", "No such device"}, // the system's words for opening one
      {"dangling", "../../blobs/0123, which does not exist"},
      {"loop", "form a loop"},
      {"nothing", "No such file"},
  };
  int socket_ = -1;
};

TEST_F(InputFile, WhatIsNoRegularFileIsNamed) {
  for (const auto& [name, found] : found_) {
    const auto path = folder_ / name;
    for (const std::function<void()>& open : {
             std::function<void()>([&] { read_file(path); }),
             std::function<void()>([&] { SafetensorsFile{path}; }),
         }) {
      const auto message = refusal<DataError>(open);
      EXPECT_NE(message.find(found), std::string::npos) << name << message;
      EXPECT_NE(message.find(path.string()), std::string::npos) << message;
    }
  }
}

TEST_F(InputFile, FoldersOfSuchFilesAreRefusedAlike) {
  for (const auto& [name, found] : found_) {
    if (name == "nothing") {
      continue;
    }
    for (const auto* file :
         {"model.safetensors",
          "model.safetensors.index.json",
          "adapter_config.json"}) {
      const auto folder = folder_ / "of" / name / file;
      fs::create_directories(folder);
      const auto path = folder / file;
      if (name == "loop") {
        fs::create_symlink(file, path);
      } else {
        fs::rename(folder_ / name, path);
      }
      const auto message = refusal<DataError>([&] {
        if (std::string(file) == "adapter_config.json") {
          load_adapter_config(folder);
        } else {
          Checkpoint{folder};
        }
      });
      EXPECT_NE(message.find(found), std::string::npos) << file << message;
      if (name != "loop") {
        fs::rename(path, folder_ / name);
      }
    }
  }
}

TEST_F(InputFile, AFileThatIsTooLongIsNotRead) {
  const auto path = folder_ / "long";
  std::ofstream(path) << "0123456789";
  EXPECT_EQ(read_file(path, 10), "0123456789");
  fs::resize_file(path, uintmax_t{1} << 40);
  for (const uint64_t limit : {uint64_t{1} << 20, UINT64_MAX}) {
    const auto message = refusal<DataError>([&] { read_file(path, limit); });
    EXPECT_NE(message.find("1099511627776 bytes"), std::string::npos)
        << message;
  }
  fs::create_directories(folder_ / "config");
  fs::rename(path, folder_ / "config" / "adapter_config.json");
  EXPECT_NE(
      refusal<DataError>([&] {
        load_adapter_config(folder_ / "config");
      }).find("at most"),
      std::string::npos);
}

TEST_F(InputFile, AFileThatIsTruncatedWhileItIsReadIsNamed) {
  const auto path = folder_ / "cut.safetensors";
  save_safetensors(path, {{"a", torch::ones({1 << 20})}});
  const SafetensorsFile file(path);
  const auto tensor = file.tensor("a");
  fs::resize_file(path, 4096);
  const auto message = refusal<DataError>([&] { file.tensor("a"); });
  EXPECT_NE(message.find("truncated"), std::string::npos) << message;
  EXPECT_NE(message.find(path.string()), std::string::npos) << message;
  // What was taken before can be found lost in the middle of a product only.
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  const auto steering = folder_ / "cut\x1b[2J.safetensors";
  EXPECT_EXIT(
      {
        save_safetensors(steering, {{"a", torch::ones({1 << 20})}});
        const auto taken = SafetensorsFile(steering).tensor("a");
        fs::resize_file(steering, 4096);
        taken.sum();
      },
      testing::ExitedWithCode(3),
      R"(\[SafetensorsFile\] .*cut\\x1b\[2J\.safetensors.*truncated)");
  const auto other = folder_ / "adapter_model.bin";
  EXPECT_EXIT(
      {
        save_safetensors(other, {{"a", torch::ones({1 << 20})}});
        const MappedFile mapping(other, "[load_adapter] ");
        fs::resize_file(other, 4096);
        const volatile char lost = mapping.data()[4096];
        static_cast<void>(lost);
      },
      testing::ExitedWithCode(3),
      R"(\[load_adapter\] .*adapter_model\.bin.*truncated)");
}

} // namespace
} // namespace torchlora::io
