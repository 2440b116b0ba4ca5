// Uses two plugins in one process: `linked` with this program or loaded into
// the `global` scope they share one copy of torchlora, `loaded` each by itself
// they have one each.
#include <cstdio>
#include <cstring>

#include <dlfcn.h>

namespace {

struct Plugin {
  explicit Plugin(const char* path, int mode) : handle(dlopen(path, mode)) {
    if (!handle) {
      std::printf("%s\n", dlerror());
    }
  }
  template <class Function>
  Function* function(const char* name) const {
    return reinterpret_cast<Function*>(dlsym(handle, name));
  }
  /// Whether a mixed batch of this one is right for a model of `other`.
  bool mixes_for(const Plugin& other) const {
    auto* model = other.function<void*()>("make_shared_model")();
    const char* error = function<const char*(void*)>("mix")(model);
    std::printf("%s\n", *error ? error : "mixed");
    const bool is_right = !*error;
    other.function<void(void*)>("drop")(model);
    return is_right;
  }
  bool adapts() const {
    const char* error = function<const char*()>("adapt")();
    std::printf("%s\n", *error ? error : "adapted");
    return !*error;
  }

  void* handle;
};

} // namespace

int main(int /*argc*/, char** argv) {
  const bool is_linked = std::strcmp(argv[1], "linked") == 0;
  const bool is_shared = std::strcmp(argv[1], "loaded") != 0;
  const int mode = RTLD_NOW | (is_shared ? RTLD_GLOBAL : RTLD_LOCAL) |
      (is_linked ? RTLD_NOLOAD : 0);
  const Plugin first(argv[2], mode), second(argv[3], mode);
  if (!first.handle || !second.handle) {
    return 2;
  }
  first.function<void()>("register_type")();
  const bool first_knows = first.function<bool()>("knows_type")();
  const bool second_knows = second.function<bool()>("knows_type")();
  std::printf(
      "registered in the first, found: %d %d\n", first_knows, second_knows);
  bool is_adapted = first.adapts() && second.adapts() && first.adapts() &&
      first.mixes_for(first) && first.mixes_for(second) &&
      second.mixes_for(first);
  dlclose(first.handle);
  is_adapted = second.adapts() && is_adapted;
  return is_adapted && first_knows && second_knows == is_shared ? 0 : 1;
}
