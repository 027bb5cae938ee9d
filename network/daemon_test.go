package network

func daemon()    {}
func container() {}
