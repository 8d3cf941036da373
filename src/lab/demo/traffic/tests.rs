use super::*;

#[test]
fn an_answer_says_who_speaks_to_whom() {
    let answer = Answer {
        status: 200,
        body: "pod=server-1 text=\"x client=y\" client=10.77.1.1:4711\n".to_owned(),
        local: "10.77.1.1:1".parse().unwrap(),
    };
    assert_eq!(pod_of(&answer), "server-1");
    assert_eq!(client_of(&answer), Some("10.77.1.1:4711".parse().unwrap()));
}
