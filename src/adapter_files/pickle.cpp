#include "adapter_files/pickle.h"

#include <cstdint>
#include <map>
#include <vector>

#include <fmt/format.h>

#include <torchlora/error.h>

#include "adapter_files/pickle_bytes.h"
#include "adapter_files/pickle_value.h"
#include "adapter_files/pickled_storage.h"
#include "text/utf8.h"

// A pickle is a program for a stack machine. This one knows the operations that
// a dictionary of tensors needs, and the few functions that PyTorch names in
// it. It trusts no number: a string is a view of the pickle, a storage a view
// of its file in the archive, and the memo a table by number. Tuples,
// dictionaries and tensors live in lists of the machine and values refer to
// them by number, so nothing is nested and nothing is destroyed recursively.
// The number of values of each kind is limited, and with it the memory.

namespace torchlora {
namespace {

constexpr size_t kMaxPickleBytes = 64 << 20;
/// The largest number of values of each kind, and of those that all tuples and
/// dictionaries hold together. A tensor needs about eight entries of the memo.
constexpr size_t kMaxItems = 1 << 20;
constexpr size_t kMaxDims = 64;
constexpr size_t kMaxKeyLength = 1000;

class Machine {
 public:
  Machine(std::string_view pickle, PickledStorages storages, std::string where)
      : pickle_(pickle, where),
        storages_(std::move(storages)),
        where_(std::move(where)) {}

  std::map<std::string, Tensor> run() {
    while (step()) {
    }
    const auto top = pop();
    check(
        top.kind == PickleValue::kDict, "it holds something else than a dict");
    std::map<std::string, Tensor> tensors;
    for (const auto& [key, value] : dicts_[index(top)]) {
      const auto name = text(key);
      check(name.size() <= kMaxKeyLength, "a name is too long");
      check(
          value.kind == PickleValue::kTensor,
          fmt::format(
              "\"{}\" is not a tensor", detail::first_characters(name, 200)));
      tensors.insert_or_assign(std::string(name), tensors_[index(value)]);
    }
    return tensors;
  }

 private:
  using Pairs = std::vector<std::pair<PickleValue, PickleValue>>;

  void check(bool is_right, std::string_view what) const {
    TORCHLORA_CHECK_DATA(is_right, where_, what);
  }

  // The stack.
  void push(PickleValue value) {
    check(stack_.size() < kMaxItems, "it holds too many values");
    stack_.push_back(value);
  }
  void push(PickleValue::Kind kind, int64_t value = 0) {
    push(PickleValue{kind, value});
  }
  PickleValue pop() {
    check(!stack_.empty(), "the pickle is damaged: its stack is empty");
    const auto value = stack_.back();
    stack_.pop_back();
    return value;
  }
  /// Takes everything above the last mark, and the mark.
  std::vector<PickleValue> pop_to_mark() {
    auto begin = stack_.size();
    while (begin > 0 && stack_[begin - 1].kind != PickleValue::kMark) {
      --begin;
    }
    check(begin > 0, "the pickle is damaged: a mark is missing");
    std::vector<PickleValue> values(
        stack_.begin() + static_cast<std::ptrdiff_t>(begin), stack_.end());
    stack_.resize(begin - 1);
    return values;
  }

  // Values.
  static size_t index(const PickleValue& value) {
    return static_cast<size_t>(value.number);
  }
  void push_text(std::string_view text) {
    const auto begin = static_cast<int64_t>(text.data() - pickle_.all().data());
    push(PickleValue::kText, (begin << 32) | static_cast<int64_t>(text.size()));
  }
  std::string_view text(const PickleValue& value) const {
    check(value.kind == PickleValue::kText, "a name is not a string");
    return pickle_.all().substr(
        static_cast<size_t>(value.number >> 32),
        static_cast<size_t>(value.number & 0xffffffff));
  }
  const std::vector<PickleValue>& tuple(const PickleValue& value) const {
    check(value.kind == PickleValue::kTuple, "the pickle is damaged: no tuple");
    return tuples_[index(value)];
  }
  std::vector<int64_t> integers(const PickleValue& value) const {
    std::vector<int64_t> result;
    check(tuple(value).size() <= kMaxDims, "a tensor has too many dimensions");
    for (const auto& element : tuple(value)) {
      check(
          element.kind == PickleValue::kInteger && element.number >= 0,
          "a tensor's sizes or strides are no numbers");
      result.push_back(element.number);
    }
    return result;
  }
  /// Pushes the number of the next element of `list`.
  template <class List>
  void push_index(PickleValue::Kind kind, const List& list) {
    check(list.size() < kMaxItems, "it holds too many values");
    push(kind, static_cast<int64_t>(list.size()));
  }
  void hold(size_t count) {
    held_ += count;
    check(held_ <= kMaxItems, "it holds too many values");
  }
  void push_tuple(std::vector<PickleValue> values) {
    hold(values.size());
    push_index(PickleValue::kTuple, tuples_);
    tuples_.push_back(std::move(values));
  }
  void push_tuple(size_t size) {
    std::vector<PickleValue> values(size);
    for (auto i = size; i > 0; --i) {
      values[i - 1] = pop();
    }
    push_tuple(std::move(values));
  }
  void push_dict() {
    push_index(PickleValue::kDict, dicts_);
    dicts_.emplace_back();
  }
  void push_name(std::string_view module, std::string_view name) {
    const auto full = fmt::format("{} {}", module, name);
    for (const auto& known : kPickleNames) {
      if (known.name == full) {
        push(known.value);
        return;
      }
    }
    check(
        false,
        fmt::format(
            "it uses {}.{}, which is not allowed",
            detail::first_characters(module, 100),
            detail::first_characters(name, 100)));
  }

  // ("storage", type, name of a file, device, number of elements).
  void push_storage(const std::vector<PickleValue>& values) {
    check(
        values.size() == 5 && text(values[0]) == "storage" &&
            values[1].kind == PickleValue::kStorageType &&
            values[4].kind == PickleValue::kInteger,
        "it refers to something else than a storage");
    push_index(PickleValue::kStorage, storage_list_);
    storage_list_.push_back(storages_.find(
        text(values[2]),
        static_cast<at::ScalarType>(values[1].number),
        values[4].number));
  }

  // (storage, offset, sizes, strides, …).
  void push_tensor(const std::vector<PickleValue>& values) {
    check(
        values.size() >= 4 && values[0].kind == PickleValue::kStorage &&
            values[1].kind == PickleValue::kInteger,
        "a tensor has no storage");
    push_index(PickleValue::kTensor, tensors_);
    tensors_.push_back(storages_.view(
        storage_list_[index(values[0])],
        values[1].number,
        integers(values[2]),
        integers(values[3])));
  }

  void call() {
    const auto& arguments = tuple(pop());
    const auto function = pop();
    check(
        function.kind == PickleValue::kFunction,
        "the pickle is damaged: no call");
    if (function.number == kOrderedDict) {
      check(arguments.empty(), "an OrderedDict has arguments");
      push_dict();
    } else if (function.number == kRebuildTensor) {
      push_tensor(arguments);
    } else {
      check(
          !arguments.empty() && arguments[0].kind == PickleValue::kTensor,
          "a parameter has no tensor");
      push(arguments[0]);
    }
  }
  void set_items(const std::vector<PickleValue>& values) {
    check(
        !stack_.empty() && stack_.back().kind == PickleValue::kDict &&
            values.size() % 2 == 0,
        "the pickle is damaged: no dict to fill");
    hold(values.size());
    auto& dict = dicts_[index(stack_.back())];
    for (size_t i = 0; i < values.size(); i += 2) {
      dict.emplace_back(values[i], values[i + 1]);
    }
  }
  void store(uint64_t key) {
    check(!stack_.empty(), "the pickle is damaged: its stack is empty");
    check(memo_.size() < kMaxItems, "it holds too many values");
    memo_[key] = stack_.back();
  }
  void load(uint64_t key) {
    const auto found = memo_.find(key);
    check(found != memo_.end(), "the pickle is damaged: its memo is empty");
    push(found->second);
  }

  /// Runs one operation. Returns false at the end.
  bool step();

  PickleBytes pickle_;
  PickledStorages storages_;
  std::string where_;
  std::vector<PickleValue> stack_;
  std::map<uint64_t, PickleValue> memo_;
  std::vector<std::vector<PickleValue>> tuples_;
  std::vector<Pairs> dicts_;
  /// The number of values in `tuples_` and `dicts_`.
  size_t held_ = 0;
  std::vector<Tensor> storage_list_, tensors_;
};

bool Machine::step() {
  const auto operation = static_cast<unsigned char>(pickle_.take(1)[0]);
  switch (operation) {
    case 0x80: // PROTO
    case 0x95: // FRAME
      pickle_.take(operation == 0x80 ? 1 : 8);
      break;
    case '.': // STOP
      return false;
    case '(': // MARK
      push(PickleValue::kMark);
      break;
    case 'N': // NONE
      push(PickleValue::kOther);
      break;
    case 0x88: // NEWTRUE
    case 0x89: // NEWFALSE
      push(PickleValue::kInteger, operation == 0x88);
      break;
    case 'K': // BININT1
    case 'M': // BININT2
      push(
          PickleValue::kInteger,
          static_cast<int64_t>(pickle_.number(operation == 'K' ? 1 : 2)));
      break;
    case 'J': // BININT
      push(PickleValue::kInteger, pickle_.integer(4));
      break;
    case 0x8a: { // LONG1
      const auto size = pickle_.number(1);
      check(size <= 8, "a number is too large");
      push(PickleValue::kInteger, pickle_.integer(size));
      break;
    }
    case 0x8c: // SHORT_BINUNICODE
    case 'X':  // BINUNICODE
      push_text(pickle_.take(pickle_.number(operation == 'X' ? 4 : 1)));
      break;
    case '}': // EMPTY_DICT
      push_dict();
      break;
    case ')': // EMPTY_TUPLE
      push_tuple(0);
      break;
    case 0x85: // TUPLE1
    case 0x86: // TUPLE2
    case 0x87: // TUPLE3
      push_tuple(operation - 0x84);
      break;
    case 't': // TUPLE
      push_tuple(pop_to_mark());
      break;
    case 'q': // BINPUT
    case 'r': // LONG_BINPUT
      store(pickle_.number(operation == 'q' ? 1 : 4));
      break;
    case 0x94: // MEMOIZE
      store(memo_.size());
      break;
    case 'h': // BINGET
    case 'j': // LONG_BINGET
      load(pickle_.number(operation == 'h' ? 1 : 4));
      break;
    case 'c': { // GLOBAL
      const auto module = pickle_.line();
      push_name(module, pickle_.line());
      break;
    }
    case 0x93: { // STACK_GLOBAL
      const auto name = pop();
      push_name(text(pop()), text(name));
      break;
    }
    case 'Q': { // BINPERSID
      push_storage(tuple(pop()));
      break;
    }
    case 'R': // REDUCE
      call();
      break;
    case 's': { // SETITEM
      const auto value = pop();
      const auto key = pop();
      set_items({key, value});
      break;
    }
    case 'u': // SETITEMS
      set_items(pop_to_mark());
      break;
    case 'b': // BUILD: attributes of an OrderedDict, which say nothing here
      pop();
      check(
          !stack_.empty() && stack_.back().kind == PickleValue::kDict,
          "it sets attributes of something else than a dict");
      break;
    default:
      check(
          false,
          fmt::format(
              "it holds something else than tensors (operation 0x{:02x})",
              operation));
  }
  return true;
}

} // namespace

std::map<std::string, Tensor> read_pickled_tensors(
    const std::map<std::string, std::string_view>& files,
    const std::shared_ptr<void>& owner,
    const std::string& where) {
  constexpr std::string_view kPickle = "/data.pkl";
  for (const auto& [name, content] : files) {
    if (!name.ends_with(kPickle)) {
      continue;
    }
    const auto archive = name.substr(0, name.size() - kPickle.size());
    TORCHLORA_CHECK_DATA(
        content.size() <= kMaxPickleBytes,
        where,
        "its pickle has ",
        content.size(),
        " bytes, at most ",
        kMaxPickleBytes,
        " are read");
    const auto order = files.find(archive + "/byteorder");
    TORCHLORA_CHECK_DATA(
        order == files.end() || order->second == "little",
        where,
        "its byte order is not little");
    return Machine(content, {files, archive + "/data/", owner, where}, where)
        .run();
  }
  TORCHLORA_CHECK_DATA(false, where, "it has no data.pkl");
}

} // namespace torchlora
