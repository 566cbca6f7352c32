package hostnet

func ownAndDie(string) error { return nil }
