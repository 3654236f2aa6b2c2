// Numbers of 16 bits, two in a word.

const SIGN: u32 = 0x80000000u;
const INFINITY: u32 = 0x7f800000u;

fn split_halves(words: vec2<u32>) -> vec4<u32> {
    return vec4<u32>(words.x & 0xffffu, words.x >> 16u, words.y & 0xffffu, words.y >> 16u);
}

fn join_halves(halves: vec4<u32>) -> vec2<u32> {
    return halves.xz | (halves.yw << vec2<u32>(16u));
}
