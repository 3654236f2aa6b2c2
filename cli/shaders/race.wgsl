// Classic functions of two variables, with their slopes: one invocation a point. Each point's path goes
// to a trace: where it was before every step, and the function's value there.

override POINTS: u32;

struct Point {
    // Its number among the functions.
    function: u32,
    // Steps recorded so far.
    step: u32,
}

@group(0) @binding(0) var<storage, read> position: array<vec2<f32>>;
@group(0) @binding(1) var<storage, read_write> gradient: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read_write> points: array<Point>;
// Two coordinates and a value.
@group(0) @binding(3) var<storage, read_write> trace: array<f32>;

const TURN: f32 = 6.2831853;
// A path that leaves this far is over: it would only overflow.
const FAR: f32 = 1e3;

// The slopes and, last, the value.
fn evaluate(function: u32, x: f32, y: f32) -> vec3<f32> {
    switch function {
        // Rosenbrock 1960: a bent valley.
        case 0u: {
            let a = 1.0 - x;
            let b = y - x * x;
            return vec3<f32>(-2.0 * a - 400.0 * x * b, 200.0 * b, a * a + 100.0 * b * b);
        }
        // Beale 1958: plains and steep walls.
        case 1u: {
            let a = 1.5 - x + x * y;
            let b = 2.25 - x + x * y * y;
            let c = 2.625 - x + x * y * y * y;
            let dx = 2.0 * (a * (y - 1.0) + b * (y * y - 1.0) + c * (y * y * y - 1.0));
            return vec3<f32>(dx, 2.0 * x * (a + 2.0 * y * b + 3.0 * y * y * c), a * a + b * b + c * c);
        }
        // Rastrigin 1974: a minimum in every cell of a grid.
        case 2u: {
            let dx = 2.0 * x + 10.0 * TURN * sin(TURN * x);
            let dy = 2.0 * y + 10.0 * TURN * sin(TURN * y);
            return vec3<f32>(dx, dy, 20.0 + x * x + y * y - 10.0 * (cos(TURN * x) + cos(TURN * y)));
        }
        // A saddle at the origin between two minima.
        default: {
            return vec3<f32>(x, y * y * y - y, 0.5 * x * x + 0.25 * y * y * y * y - 0.5 * y * y + 0.25);
        }
    }
}

@compute @workgroup_size(64)
fn race(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = id.x;
    if i >= POINTS {
        return;
    }
    let p = position[i];
    let found = evaluate(points[i].function, p.x, p.y);
    let at = 3u * (points[i].step * POINTS + i);
    trace[at] = p.x;
    trace[at + 1u] = p.y;
    trace[at + 2u] = found.z;
    points[i].step += 1u;
    gradient[i] = select(vec2<f32>(0.0), found.xy, all(abs(p) < vec2<f32>(FAR)));
}
