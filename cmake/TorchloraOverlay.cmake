# The dispatch keys that the weight overlay can borrow (src/lora/overlay/kernels.cpp),
# as far as LibTorch has them; without one unmodified layers are refused.
set(TORCHLORA_OVERLAY_KEYS "")
if(TORCHLORA_WITH_OVERLAY)
  include(CheckCXXSourceCompiles)
  function(torchlora_check_overlay_key key)
    set(CMAKE_CXX_STANDARD 20)
    set(CMAKE_REQUIRED_INCLUDES ${TORCH_INCLUDE_DIRS})
    set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)
    check_cxx_source_compiles(
      "#include <c10/core/DispatchKey.h>
      int main() { return c10::DispatchKey::${key} == c10::DispatchKey::Undefined; }"
      TORCHLORA_HAS_${key})
  endfunction()
  foreach(key IN ITEMS DeferredInit TESTING_ONLY_GenericWrapper)
    torchlora_check_overlay_key(${key})
    if(TORCHLORA_HAS_${key})
      list(APPEND TORCHLORA_OVERLAY_KEYS c10::DispatchKey::${key})
    endif()
  endforeach()
  if(NOT TORCHLORA_OVERLAY_KEYS)
    message(WARNING "torchlora: this LibTorch has no dispatch key for the weight overlay; "
                    "torch::nn layers cannot be adapted, those of torchlora::nn can")
  endif()
endif()
