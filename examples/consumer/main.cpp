#include <iostream>

#include <torchlora/lora/config.h>

int main() {
  const auto config = torchlora::LoraConfig().r(8).target_modules({"fc"});
  std::cout << "r = " << config.r() << '\n';
}
