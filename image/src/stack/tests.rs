use super::frame::follow;
use super::*;

#[test]
fn a_frame_is_pushes_and_what_is_taken() {
    // push rbp; mov rbp, rsp; and rsp, -64; sub rsp, 0x100; mov rsp, rbp; pop rbp; ret
    let code =
        [0x55, 0x48, 0x89, 0xe5, 0x48, 0x83, 0xe4, 0xc0, 0x48, 0x81, 0xec, 0, 1, 0, 0, 0x48, 0x89, 0xec, 0x5d, 0xc3];
    let frame = follow(&code, 0x1000);
    assert_eq!((frame.deepest, frame.dynamic), (8 + 63 + 0x100, false));
}

#[test]
fn a_loop_that_touches_pages_ends_where_its_register_says() {
    // lea r11, [rsp - 0x10000]; again: sub rsp, 0x1000; mov qword [rsp], 0; cmp rsp, r11; jne again; sub rsp, 0x28; call +0; ret
    let mut code = vec![0x4c, 0x8d, 0x9c, 0x24, 0, 0, 0xff, 0xff, 0x48, 0x81, 0xec, 0, 0x10, 0, 0];
    code.extend([0x48, 0xc7, 0x04, 0x24, 0, 0, 0, 0, 0x4c, 0x39, 0xdc, 0x75, 0xec]);
    code.extend([0x48, 0x83, 0xec, 0x28, 0xe8, 0, 0, 0, 0, 0xc3]);
    let frame = follow(&code, 0x1000);
    assert_eq!((frame.deepest, frame.calls), (0x1_0028, vec![(0x1_0028, 0x1025)]));
}

#[test]
fn each_way_through_a_function_has_its_own_depth() {
    // test edi, edi; je out; push rbx; call 0x2000; pop rbx; jmp 0x3000; out: ret; then padding
    let mut code = vec![0x85, 0xff, 0x74, 0x0c, 0x53, 0xe8];
    code.extend((0x2000i32 - 0x100a).to_le_bytes());
    code.extend([0x5b, 0xe9]);
    code.extend((0x3000i32 - 0x1010).to_le_bytes());
    code.extend([0xc3, 0x90, 0xcc]);
    let frame = follow(&code, 0x1000);
    assert_eq!(frame.deepest, 8);
    assert_eq!(frame.calls, [(8, 0x2000), (0, 0x3000)]);
    assert_eq!(frame.through_pointers, None);
}

#[test]
fn cases_behind_a_table_are_found() {
    // sub rsp, 0x20; jmp rax; case: call rbx; add rsp, 0x20; ret; case: sub rsp, rcx; ud2
    let code =
        [0x48, 0x83, 0xec, 0x20, 0xff, 0xe0, 0xff, 0xd3, 0x48, 0x83, 0xc4, 0x20, 0xc3, 0x48, 0x29, 0xcc, 0x0f, 0x0b];
    let frame = follow(&code, 0x1000);
    assert_eq!((frame.through_pointers, frame.dynamic), (Some(0x20), true));
}

#[test]
fn damaged_code_has_an_answer_too() {
    let mut state = 1u32;
    for length in 0..200 {
        let code: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .take(length)
        .collect();
        let _ = follow(&code, u64::MAX - 100);
        let _ = need(&code, 0);
    }
}
