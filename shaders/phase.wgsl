// From one phase to the next: `Phase` in `src/gpu/step/phases.rs`.

// The word of `Control` that has the phase.
const PHASE: u32 = 14u;

struct PhaseChange {
    before: u32,
    after: u32,
}
