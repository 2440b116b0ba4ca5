# Whether LibTorch has the dispatch keys that the weight overlay borrows one of
# (src/lora/overlay/kernels.cpp); without it unmodified layers are refused.
if(TORCHLORA_WITH_OVERLAY)
  include(CheckCXXSourceCompiles)
  function(torchlora_check_overlay_key)
    set(CMAKE_CXX_STANDARD 20)
    set(CMAKE_REQUIRED_INCLUDES ${TORCH_INCLUDE_DIRS})
    set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)
    check_cxx_source_compiles(
      "#include <c10/core/DispatchKey.h>
      constexpr c10::DispatchKey keys[] = {
          c10::DispatchKey::DeferredInit, c10::DispatchKey::TESTING_ONLY_GenericWrapper};
      int main() { return keys[0] == keys[1]; }"
      TORCHLORA_HAS_OVERLAY_KEY)
  endfunction()
  torchlora_check_overlay_key()
  if(NOT TORCHLORA_HAS_OVERLAY_KEY)
    message(WARNING "torchlora: this LibTorch has no dispatch key for the weight overlay; "
                    "torch::nn layers cannot be adapted, those of torchlora::nn can")
  endif()
else()
  set(TORCHLORA_HAS_OVERLAY_KEY OFF)
endif()
