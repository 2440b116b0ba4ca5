#pragma once

/// Marks what the compiled libraries export: they are built with hidden
/// visibility. On ELF and Mach-O importing needs no mark.
#define TORCHLORA_API __attribute__((visibility("default")))
