use super::*;

#[test]
fn words_name_an_application_or_are_shown() {
    let http = |text: &str| App { kind: Kind::Http { text: text.to_owned() }, port: 8080 };
    assert_eq!("http 8080".parse(), Ok(http("")));
    assert_eq!(" http  8080 hello there".parse(), Ok(http("hello there")));
    assert_eq!("echo 7".parse(), Ok(App { kind: Kind::Echo, port: 7 }));
    assert_eq!("bulk 9".parse(), Ok(App { kind: Kind::Bulk, port: 9 }));
    assert_eq!("gateway 15008".parse(), Ok(App { kind: Kind::Gateway, port: 15008 }));
    for wrong in ["", "http", "http 0", "http 70000", "echo 7 x", "ftp 21"] {
        assert_eq!(wrong.parse::<App>(), Err(NoApp(wrong.to_owned())));
    }
}
