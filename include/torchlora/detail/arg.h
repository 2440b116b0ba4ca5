#pragma once

#include <type_traits>
#include <utility>

/// Declares the option `name` of type `T` of a class, like LibTorch's
/// TORCH_ARG: a setter that returns the object, so that calls chain, and a
/// getter of the same name. A temporary object has no getter, so that
/// `auto config = LoraConfig(8).use_dora();` does not compile; `config` would
/// be the flag and not the configuration.
#define TORCHLORA_ARG(T, name)                                         \
 public:                                                               \
  auto name(T value)& -> decltype(*this) {                             \
    this->name##_ = std::move(value);                                  \
    return *this;                                                      \
  }                                                                    \
  auto name(T value)&& -> std::remove_reference_t<decltype(*this)>&& { \
    this->name##_ = std::move(value);                                  \
    return std::move(*this);                                           \
  }                                                                    \
  const T& name() const& noexcept {                                    \
    return this->name##_;                                              \
  }                                                                    \
  T& name()& noexcept {                                                \
    return this->name##_;                                              \
  }                                                                    \
  void name() const&& = delete;                                        \
                                                                       \
 private:                                                              \
  T name##_
