#pragma once

/// Exports a class or function from the shared libraries, which are built with
/// hidden visibility. A program that uses them (on ELF or Mach-O) needs no
/// other mark.
#define TORCHLORA_API __attribute__((visibility("default")))
