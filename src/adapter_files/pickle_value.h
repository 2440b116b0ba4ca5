#pragma once

#include <cstdint>
#include <string_view>

#include <c10/core/ScalarType.h>

namespace torchlora {

/// A value on the stack of the machine.
struct PickleValue {
  enum Kind : uint8_t {
    kMark,
    kOther, // None, and what a BUILD would add
    kInteger,
    kText,        // position and length in the pickle
    kFunction,    // a PickleFunction
    kStorageType, // a ScalarType
    kTuple,       // the others are numbers in a list of the machine
    kDict,
    kStorage,
    kTensor,
  };
  Kind kind = kOther;
  int64_t number = 0;
};

enum PickleFunction { kOrderedDict, kRebuildTensor, kRebuildParameter };

/// What a pickle may name, as "module name".
struct PickleName {
  std::string_view name;
  PickleValue value;
};

constexpr PickleValue storage_type(c10::ScalarType dtype) {
  return {PickleValue::kStorageType, static_cast<int64_t>(dtype)};
}

constexpr PickleName kPickleNames[] = {
    {"collections OrderedDict", {PickleValue::kFunction, kOrderedDict}},
    {"torch._utils _rebuild_tensor_v2",
     {PickleValue::kFunction, kRebuildTensor}},
    {"torch._utils _rebuild_parameter",
     {PickleValue::kFunction, kRebuildParameter}},
    {"torch FloatStorage", storage_type(c10::ScalarType::Float)},
    {"torch DoubleStorage", storage_type(c10::ScalarType::Double)},
    {"torch HalfStorage", storage_type(c10::ScalarType::Half)},
    {"torch BFloat16Storage", storage_type(c10::ScalarType::BFloat16)},
    {"torch LongStorage", storage_type(c10::ScalarType::Long)},
    {"torch IntStorage", storage_type(c10::ScalarType::Int)},
    {"torch ShortStorage", storage_type(c10::ScalarType::Short)},
    {"torch CharStorage", storage_type(c10::ScalarType::Char)},
    {"torch ByteStorage", storage_type(c10::ScalarType::Byte)},
    {"torch BoolStorage", storage_type(c10::ScalarType::Bool)},
    {"torch ComplexFloatStorage", storage_type(c10::ScalarType::ComplexFloat)},
    {"torch ComplexDoubleStorage",
     storage_type(c10::ScalarType::ComplexDouble)},
};

} // namespace torchlora
