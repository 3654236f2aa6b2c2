// Gradients stay as they are.

fn clear_gradients(element: u32, count: u32) {}
